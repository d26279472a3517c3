"""Tracebacks of the user's code, without our own frames and without end."""

from __future__ import annotations

import traceback
from pathlib import Path

from nbray.common.text import encodable
from nbray.exceptions import TaskError

_MOST_TEXT = 1 << 16
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
        return _bounded("".join([_TITLE, *stack.format(), shown]))
    part: traceback.TracebackException | None = frames
    while part is not None:
        part.stack = _users(part.stack)
        part = part.__cause__ or part.__context__
    if not isinstance(error, TaskError):
        return _bounded("".join(frames.format()))
    met = "".join([_TITLE, *frames.stack.format()])
    last = str(error).rstrip().rpartition("\n")[2]
    return _bounded(f"{str(error).rstrip()}\n\nWhich the task met here:\n\n{met}{last}\n")


def _users(stack: traceback.StackSummary) -> traceback.StackSummary:
    return traceback.StackSummary.from_list(
        [frame for frame in stack if not frame.filename.startswith(_OURS)]
    )


def _bounded(text: str) -> str:
    """``text`` as any message takes it, without its middle if it is longer than anybody reads."""
    if len(text) <= _MOST_TEXT:
        return encodable(text)
    left_out = len(text) - _MOST_TEXT
    half = _MOST_TEXT // 2
    return encodable(f"{text[:half]}\n... {left_out:,} characters ...\n{text[-half:]}")
