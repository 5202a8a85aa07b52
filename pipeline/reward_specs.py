"""The key `rewards:` means the same in every stage: files beside the configuration, identified by their content.

Whether a list of rewards can be built is checked before anything runs, for a mistake there is found by a stage only
when its turn comes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from data.artifact import hash_path
from stages.stage import Context, Stage, StageConfig

FILES = ("path", "model")
"""Keys of a reward that may name a file or a directory."""


def anchored(step: Mapping[str, Any], base_dir: Path) -> dict[str, Any]:
    """The step with the files that its rewards name made absolute; a model's name on the Hub stays as it is."""
    specs = step.get("rewards")
    if not isinstance(specs, list):
        return dict(step)
    return {**step, "rewards": [_anchored(spec, base_dir) if isinstance(spec, dict) else spec for spec in specs]}


def _anchored(spec: dict[str, Any], base_dir: Path) -> dict[str, Any]:
    found = dict(spec)
    if isinstance(spec.get("path"), str):
        found["path"] = str(base_dir / spec["path"])
    if isinstance(spec.get("model"), str) and (base_dir / spec["model"]).is_dir():
        found["model"] = str(base_dir / spec["model"])
    return found


def identified(dumped: dict[str, Any]) -> dict[str, Any]:
    """A dumped configuration in which contents stand for the files of its rewards. Raises ValueError for a lost one."""
    specs = dumped.get("rewards")
    if not isinstance(specs, list):
        return dumped
    return {**dumped, "rewards": [_identified(spec) if isinstance(spec, dict) else spec for spec in specs]}


def _identified(spec: dict[str, Any]) -> dict[str, Any]:
    found = dict(spec)
    for key in FILES:
        file = spec.get(key)
        if isinstance(file, str) and Path(file).is_absolute():
            if not Path(file).exists():
                raise ValueError(f"rewards: {key}: there is no {file}")
            found[key] = {"content": hash_path(Path(file))}
    return found


def sandboxes(stage: Stage, config: StageConfig, wired: Collection[str], sandbox: str) -> set[str]:
    """The modes of isolation that the rewards of a step ask for; none where no reward runs programs."""
    from stages.scoring import complete

    context = Context(seed=0, convention="none", work=Path(), sandbox=sandbox)
    specs = complete(stage.mix(config, wired) if stage.mix else (), "wired", context, "rewards", "wired")
    own = [spec for spec in specs if spec.get("name") == "program"]
    inner = [spec["program"] for spec in specs if spec.get("name") == "correctness"]
    return {str(parameters["sandbox"]) for parameters in (*own, *inner)}


def check_rewards(
    stage: Stage, config: StageConfig, wired: Collection[str], sandbox: str, convention: str, where: str
) -> None:
    """Raise ValueError, one line, where the rewards of a step cannot be built. Runs the top level of user files."""
    if stage.mix is None:
        return
    import rewards
    from stages.scoring import complete

    specs = stage.mix(config, wired)
    if not specs:  # a stage that scores nothing as it is wired; `rewards: []` takes the stage's own
        return
    context = Context(seed=0, convention=convention, work=Path(), sandbox=sandbox)
    model, safety = ("wired" if name in wired else None for name in ("preference", "safety"))
    try:
        rewards.build(complete(specs, model, context, "rewards", safety))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
