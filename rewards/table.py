"""Building rewards from a configuration: names, parameters, errors of one line."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from rewards.combine import Mix, Schedule, Term

_COMMON = ("name", "path", "function", "label", "weight", "gate", "domains", "schedule")


def nearest(name: str, known: Sequence[str]) -> str:
    """ "; did you mean 'x'?" or the list of what is known."""
    match = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {match[0]!r}?" if match else f"; known: {', '.join(sorted(known))}"


def construct(name: str, kind: type, parameters: Mapping[str, Any], where: str) -> object:
    """An instance of the dataclass `kind`. Raises ValueError naming an unknown, missing or mistyped parameter."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    values = {}
    for key, value in parameters.items():
        if key not in fields:
            raise ValueError(f"{where}: {name} has no parameter {key!r}{nearest(key, [*fields, *_COMMON])}")
        values[key] = _fit(value, hints[key], f"{where}: {name}: parameter {key!r}")
    for field in fields.values():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ValueError(f"{where}: {name} needs the parameter {field.name!r}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _fit(value: Any, hint: Any, where: str) -> Any:
    """`value` as the annotation wants it: lists become tuples, integers floats, text paths; nothing else changes."""
    options = get_args(hint) if get_origin(hint) not in (tuple, dict, Mapping, None) else (hint,)
    origins = [get_origin(option) or option for option in options] or [hint]
    if value is None and type(None) in origins:
        return None
    if isinstance(value, bool):
        if bool in origins:
            return value
    elif tuple in origins and isinstance(value, list | tuple):
        return tuple(value)
    elif isinstance(value, int) and int in origins:
        return value
    elif isinstance(value, int | float) and float in origins:
        return float(value)
    elif isinstance(value, str) and Path in origins:
        return Path(value)
    elif any(value == option for option in options if isinstance(option, str)):
        return value
    else:
        for origin in origins:
            if (isinstance(origin, type) and isinstance(value, origin)) or origin is Any:
                return value
            if getattr(origin, "__name__", "") == "Mapping" and isinstance(value, dict):
                return value
    wanted = " or ".join(getattr(o, "__name__", repr(o)) for o in origins)
    raise ValueError(f"{where} must be {wanted}, got {value!r}")


def build_mix(
    specs: Sequence[Mapping[str, Any]], table: Mapping[str, type], base_dir: Path | None, renormalise: bool
) -> Mix:
    """The mix that a configuration's list describes; see `rewards.build`."""
    terms = [_term(spec, table, base_dir, f"rewards[{index}]") for index, spec in enumerate(specs)]
    return Mix(terms=tuple(terms), renormalise=renormalise)


def _term(spec: Mapping[str, Any], table: Mapping[str, type], base_dir: Path | None, where: str) -> Term:
    if not isinstance(spec, Mapping):
        raise ValueError(f"{where}: must be a mapping with `name` or `function`, got {spec!r}")
    parameters = {key: value for key, value in spec.items() if key not in _COMMON}
    if ("name" in spec) == ("function" in spec):
        raise ValueError(f"{where}: needs either `name` (one of ours) or `function` (one of yours)")
    if "name" in spec:
        name = str(spec["name"])
        if name not in table:
            raise ValueError(f"{where}: unknown reward {name!r}{nearest(name, list(table))}")
        if "path" in spec:
            raise ValueError(f"{where}: `path` goes with `function`, not with `name`")
        model = parameters.get("model")  # a directory beside the configuration, or a name on the hub
        if base_dir is not None and isinstance(model, str) and (base_dir / model).is_dir():
            parameters["model"] = str(base_dir / model)
        reward = construct(name, table[name], parameters, where)
    else:
        from rewards.user_function import UserReward

        function = str(spec["function"])
        path = _resolve(spec["path"], base_dir) if "path" in spec else None
        reward = UserReward(function=function, path=path, arguments=parameters)
        reward.load(where)
    return Term(
        name=label_of(spec),
        reward=reward,
        weight=_weight(spec.get("weight", 1.0), where),
        gate=_names(spec.get("gate"), f"{where}: gate"),
        domains=_names(spec.get("domains"), f"{where}: domains"),
        schedule=_schedule(spec.get("schedule"), where),
    )


def label_of(spec: Mapping[str, Any]) -> str:
    """The name of a reward in breakdowns: its label, or that of ours, or the function's."""
    name = str(spec["name"] if "name" in spec else spec.get("function", "")).rpartition(".")[2]
    return str(spec.get("label", name))


def _resolve(path: Any, base_dir: Path | None) -> Path:
    return Path(path) if base_dir is None else base_dir / str(path)


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise ValueError(f"{where}: weight must be a number, got {value!r}")
    return float(value)


def _names(value: Any, where: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list | tuple) and all(isinstance(name, str) for name in value):
        return tuple(value)
    raise ValueError(f"{where} must be a name or a list of names, got {value!r}")


def _schedule(value: Any, where: str) -> Schedule | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}: schedule must map steps to factors, such as {{0: 0.0, 100: 1.0}}, got {value!r}")
    try:
        points = tuple((int(step), float(factor)) for step, factor in value.items())
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: schedule must map steps to factors, such as {{0: 0.0, 100: 1.0}}, got {dict(value)!r}"
        ) from None
    try:
        return Schedule(points=points)
    except ValueError as error:
        raise ValueError(f"{where}: schedule: {error}") from None
