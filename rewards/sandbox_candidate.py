"""The candidate's side: run the model's program, alone or as a function that answers calls.

Descriptor 3 holds the source. In `script`, 0 and 1 are the problem's input and output. In `functions`, calls come
in on 4 and plain data goes out on 5, a line each. Nothing here knows what the right answer is.
"""

from __future__ import annotations

import json
import sys
import types

from rewards.sandbox_wire import decode, encode


def script() -> None:
    """Run the source as a main program."""
    _execute(_source(), "__main__")


def functions() -> None:
    """Define what the source defines, then answer one call a line: `[name, args, kwargs]`."""
    requests, replies = open(4, "rb"), open(5, "wb")  # noqa: SIM115
    failure, module = "", None
    try:
        module = _execute(_source(), "solution")
    except BaseException as error:
        failure = _failure(error)
    for line in requests:
        try:
            reply = failure or f'{{"value":{_answer(module, line)}}}'
        except BaseException as error:
            reply = _failure(error)
        replies.write(reply.encode() + b"\n")
        replies.flush()


def _answer(module: types.ModuleType | None, line: bytes) -> str:
    name, args, kwargs = decode(line)
    function = getattr(module, name, None)
    if function is None:
        raise NameError(f"name {name!r} is not defined")
    return encode(function(*args, **kwargs))


def _source() -> str:
    with open(3, encoding="utf-8", errors="replace") as file:
        return file.read()


def _execute(source: str, name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    exec(compile(source, "solution.py", "exec", dont_inherit=True), module.__dict__)
    return module


def _failure(error: BaseException) -> str:
    """The exception's name and text. Its own code makes the text, so that may fail too."""
    try:
        text = str(error)[:200]
    except BaseException:
        text = ""
    return json.dumps({"error": [type(error).__name__, text]})


ROLES = {"script": script, "functions": functions}
