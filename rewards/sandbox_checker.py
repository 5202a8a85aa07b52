"""The checker's side: evaluate a data set's assertions, with the tested function answered by another process.

Descriptor 3 holds the tests as JSON; replies come in on 4, calls go out on 5, one outcome a line goes out on 6. The
assertions are text from a data set, so this runs locked down like the candidate, in a sandbox of its own.
"""

from __future__ import annotations

import builtins
import json
from typing import Any

from rewards.sandbox_wire import encode, from_plain

MAX_REPLY = 16 << 20
"""Bytes of one reply; a longer one is a failed call."""


class RemoteError(Exception):
    """The candidate raised something that is not a builtin exception, or answered with nonsense."""


class CandidateGone(BaseException):
    """The candidate's process ended, or refuses to answer; no further call can be made."""


class UnsendableArgument(BaseException):
    """The data set calls the function with something that is not plain data: the row's fault."""


class Proxy:
    """The tested function as the assertions see it. Arguments and results are copies."""

    def __init__(self, name: str, link: Link) -> None:
        self.__name__ = name
        self._link = link

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.call(self.__name__, args, kwargs)


class Link:
    """One line out, one line back."""

    def __init__(self) -> None:
        self._replies, self._requests = open(4, "rb"), open(5, "wb")  # noqa: SIM115
        self.contact = False
        """Whether the candidate has had any say. Before that, whatever goes wrong is the row's fault."""

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            line = encode([name, list(args), kwargs])
        except (TypeError, ValueError, RecursionError) as error:
            raise UnsendableArgument(str(error)) from None
        self.contact = True
        try:
            self._requests.write(line.encode() + b"\n")
            self._requests.flush()
        except OSError:
            raise CandidateGone from None
        reply = self._replies.readline(MAX_REPLY + 1)
        if not reply.endswith(b"\n"):
            raise CandidateGone
        return _result(reply)


def _result(reply: bytes) -> Any:
    """The value in a reply, or the exception that it reports."""
    try:
        message = json.loads(reply)
    except (ValueError, RecursionError):
        raise RemoteError("malformed reply") from None
    if isinstance(message, dict) and "value" in message:
        try:
            return from_plain(message["value"])
        except ValueError:
            raise RemoteError("malformed reply") from None
    error = message.get("error") if isinstance(message, dict) else None
    if not isinstance(error, list) or len(error) != 2 or not all(isinstance(part, str) for part in error):
        raise RemoteError("malformed reply")
    kind = getattr(builtins, error[0], None)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
        raise kind(error[1])
    raise RemoteError(f"{error[0]}: {error[1]}")


def check() -> None:
    """Run setup and tests; report `[outcome, detail, contact]` for each, then `[]`."""
    with open(3, encoding="utf-8") as file:
        spec = json.load(file)
    report = open(6, "w", encoding="utf-8")  # noqa: SIM115
    link = Link()
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}

    def tell(*record: object) -> None:
        report.write(json.dumps(record) + "\n")
        report.flush()

    try:
        exec(compile(spec["setup"], "setup", "exec", dont_inherit=True), namespace)
    except BaseException as error:
        tell("row", f"setup: {_line(error)}")
        return
    for number, text in enumerate(spec["tests"]):
        namespace[spec["entry_point"]] = Proxy(spec["entry_point"], link)
        outcome, detail = _run(text, number, namespace)
        tell(outcome if link.contact or outcome == "ok" else "row", detail)
    tell("done", "" if link.contact else "no test calls the entry point")


def _run(text: str, number: int, namespace: dict[str, Any]) -> tuple[str, str]:
    """Outcome and detail of one test."""
    try:
        exec(compile(text, f"test {number}", "exec", dont_inherit=True), namespace)
    except AssertionError as error:
        return "wrong", str(error)[:100]
    except CandidateGone:
        return "gone", "the program ended before it answered"
    except UnsendableArgument as error:
        return "exception", f"cannot be called remotely: {error}"
    except BaseException as error:
        return "exception", _line(error)
    return "ok", ""


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200].replace("\n", " ")


ROLES = {"check": check}
