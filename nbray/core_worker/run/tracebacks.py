"""Tracebacks of the user's code, without our own frames and without end."""

from __future__ import annotations

import traceback
from pathlib import Path

from nbray.common.text import without_middle
from nbray.exceptions import TaskError

_PACKAGE = Path(__file__).parent.parent
# The frames between the worker and the user's code, and between that and a value that it asks for.
_OURS = (str(_PACKAGE), str(_PACKAGE.parent / "api.py"), str(_PACKAGE.parent / "object_ref.py"))
_TITLE = "Traceback (most recent call last):\n"


def user_traceback(error: BaseException) -> str:
    """The traceback without our own frames; first that of a task whose failure this one met."""
    try:
        frames = traceback.TracebackException.from_exception(error)
    except Exception as problem:  # the code of the user's class
        kind, stack = type(error), _users(traceback.extract_tb(error.__traceback__))
        shown = f"{kind.__module__}.{kind.__qualname__}: <it cannot be shown: {problem!r}>\n"
        return without_middle("".join([_TITLE, *stack.format(), shown]))
    parts = [frames]
    while parts:
        part = parts.pop()
        part.stack = _users(part.stack)
        beside = part.__cause__, part.__context__, *(part.exceptions or ())
        parts += [one for one in beside if one is not None]
    if not isinstance(error, TaskError):
        return without_middle("".join(frames.format()))
    met = "".join([_TITLE, *frames.stack.format()])
    last = str(error).rstrip().rpartition("\n")[2]
    return without_middle(f"{str(error).rstrip()}\n\nWhich the task met here:\n\n{met}{last}\n")


def _users(stack: traceback.StackSummary) -> traceback.StackSummary:
    return traceback.StackSummary.from_list(
        [frame for frame in stack if not frame.filename.startswith(_OURS)]
    )
