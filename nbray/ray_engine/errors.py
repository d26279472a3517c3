"""Ray's errors as nbray's, which are those of the port."""

from __future__ import annotations

import re
from typing import Any

from ray import exceptions as rays

from nbray import exceptions as ours
from nbray.common.text import without_middle

from .told import TITLE, ToldError

_TITLE = "Traceback (most recent call last):"
_MARKS = re.compile(r" +[~^]+ *")
_CHAINED = re.compile(
    "^(The above exception was the direct cause|During handling of the above exception)", re.M
)
_LINES_CUT = "  ... Ray has cut the first two lines of this cause off"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PROCESS = re.compile(r"ray::(?P<name>.*?)\(\) \(pid=(?P<pid>\d+), ip=(?P<ip>[^,)]*)")
_ORIGINAL = "Original exception:\nray.exceptions.RayTaskError: "
_OTHERS = {"RayActorError": ours.ActorError, "RaySystemError": ours.NbrayError}


def translated(error: BaseException) -> BaseException:
    """``error`` as nbray has it: with the same text and cause, and of the user's class, too."""
    if isinstance(error, ours.NbrayError) or not isinstance(error, rays.RayError):
        return error
    if isinstance(error, rays.RayTaskError):
        return _of_a_task(error)
    if isinstance(error, rays.UnserializableException) and _ORIGINAL in str(error):
        return _task_error(str(error).partition(_ORIGINAL)[2], None)
    for kind in type(error).__mro__:
        found = _OTHERS.get(kind.__name__) or getattr(ours, kind.__name__, None)
        if isinstance(found, type) and issubclass(found, ours.NbrayError):
            return _told(found, _COLOUR.sub("", str(error)))
    return ours.NbrayError(str(error))


def _told(kind: type[ours.NbrayError], text: str) -> ours.NbrayError:
    """An error of this kind that says what Ray's says."""
    if issubclass(kind, ours.TaskCancelledError):
        return kind(None, text)
    if issubclass(kind, ours.ActorError):
        return kind("", text)
    if issubclass(kind, ours.TaskUnschedulableError | ours.ActorUnschedulableError):
        return kind(text)
    made = kind(text)
    return made if str(made) == text else ours.NbrayError(text)


def _of_a_task(error: rays.RayTaskError) -> BaseException:
    cause: Any = error.__dict__.get("cause")
    while isinstance(cause, rays.RayTaskError):
        cause = cause.__dict__.get("cause")
    if isinstance(cause, rays.TaskCancelledError):
        return translated(cause)
    whole = ""
    if isinstance(cause, ToldError):
        whole = cause.text if cause is error.__dict__.get("cause") else ""
        cause = cause.original()
    return _task_error(str(error), cause if isinstance(cause, BaseException) else None, whole)


def _task_error(told: str, cause: BaseException | None, whole: str = "") -> BaseException:
    """``whole``: the traceback, if Ray's text has not all of it."""
    text = _without_ours(without_middle(told))
    found = _PROCESS.search(text)
    made = ours.TaskError(
        found["name"] if found else "", _without_ours(whole) or _as_python_writes(text), cause,
        int(found["pid"]) if found else None, found["ip"] if found else None,
    )  # fmt: skip
    return made.as_instanceof_cause()


def _without_ours(text: str) -> str:
    return _COLOUR.sub("", text).replace(TITLE, "")


def _as_python_writes(text: str) -> str:
    """A traceback of Ray's: its first line names the process, and of frames that it leaves out
    the marks of their columns stay."""
    written: list[str] = []
    first, *more = _CHAINED.split(text, maxsplit=1)
    if more and len(_PROCESS.findall(first)) == 1:
        process, _, rest = text.partition("\n")
        text = f"{process}\n{_LINES_CUT}\n{rest}"
    for line in text.rstrip("\n").split("\n"):
        if not (_MARKS.fullmatch(line) and written and _MARKS.fullmatch(written[-1])):
            written.append(_TITLE if _PROCESS.match(line) else line)
    return "\n".join(written) + "\n"
