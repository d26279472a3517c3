"""Takes a picture of a failure, in the worker where it happened.

Which frames there are is read by this thread and runs nobody's code. Copies of values are made by
a thread of its own, since a class of the user's may say how they are pickled and shown: one that
hangs costs so many seconds and the values behind it, one that raises its own value.
"""

from __future__ import annotations

import inspect
import linecache
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType, FunctionType, ModuleType, TracebackType
from typing import Any

from .copying import keep
from .pictures import Frame, Kept, Picture, Raised, Source
from .showing import short

_MOST_FRAMES = 50
_FIRST_FRAMES = 10
_MOST_NAMES = 200
_MOST_GLOBALS = 50
_MOST_CHAIN = 4
_WHOLE_FILE = 64 << 10
_AROUND = 60
_HUNG = 3
_NAME = "nbray-picture"


@dataclass(frozen=True)
class Limits:
    """What a picture may have.

    Attributes:
        total: bytes of all values.
        each: bytes of one.
        seconds: for copying them.
    """

    total: int = 1 << 20
    each: int = 64 << 10
    seconds: float = 2.0


class _Taken:
    """What a picture needs of the values: each once, by its identity."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self.values)
            self.values.append(value)
        return self._numbers[id(value)]


def take(error: BaseException, limits: Limits) -> Picture:
    """A picture of where ``error`` was raised, and of what led to it."""
    taken, picture = _Taken(), Picture()
    budget = _WHOLE_FILE * 4
    one: BaseException | None = error
    seen: set[int] = set()
    while one is not None and id(one) not in seen and len(picture.chain) < _MOST_CHAIN:
        seen.add(id(one))
        frames, skipped = _frames(one.__traceback__)
        # The innermost first: its values come first when there is not room for all.
        made = [_frame(frame, line, taken) for frame, line in reversed(frames)][::-1]
        picture.chain.append(Raised("", made, skipped))
        for frame, line in reversed(frames):
            name = frame.f_code.co_filename
            if name not in picture.sources and budget > 0:
                source = _source(frame, line)
                budget -= len(source.text)
                picture.sources[name] = source
        one = led_to(one)
    _copy(picture, taken.values, error, limits)
    return picture


def _frames(tb: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
    """Frames that are not nbray's, with their lines; and how many in the middle are left out."""
    found = [
        (frame, line)
        for frame, line in traceback.walk_tb(tb)
        if not is_ours(frame.f_globals.get("__name__"))
    ]
    skipped = max(0, len(found) - _MOST_FRAMES)
    if skipped:
        found = found[:_FIRST_FRAMES] + found[_FIRST_FRAMES - _MOST_FRAMES :]
    return found, skipped


def users_frames(tb: TracebackType | None) -> TracebackType | None:
    """A traceback without nbray's own frames."""
    users: TracebackType | None = None
    found = list(_walk(tb))
    for one in reversed(found):
        if not is_ours(one.tb_frame.f_globals.get("__name__")):
            users = TracebackType(users, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return users


def _walk(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def led_to(error: BaseException) -> BaseException | None:
    """What a traceback shows in front of ``error``."""
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def is_ours(module: object) -> bool:
    """Whether a module is of nbray itself."""
    return isinstance(module, str) and (module == "nbray" or module.startswith("nbray."))


def _frame(frame: FrameType, line: int, taken: _Taken) -> Frame:
    code = frame.f_code
    is_module = not code.co_flags & inspect.CO_OPTIMIZED
    names = dict(list(_worth_it(frame.f_locals, is_module).items())[:_MOST_NAMES])
    used = {} if is_module else _globals_of(code, frame.f_globals)
    count = code.co_argcount + code.co_kwonlyargcount
    flags = bool(code.co_flags & inspect.CO_VARARGS), bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return Frame(
        code.co_filename, code.co_name, code.co_firstlineno, line,
        str(frame.f_globals.get("__name__", "")),
        list(code.co_varnames[: count + sum(flags)]), code.co_argcount, code.co_kwonlyargcount,
        *flags, is_module,
        {name: taken.number(value) for name, value in names.items()},
        {name: taken.number(value) for name, value in used.items()},
    )  # fmt: skip


def _worth_it(names: Any, is_module: bool) -> dict[str, Any]:
    """The names of a frame; of a module's those that its user gave."""
    if not is_module:
        return {name: value for name, value in names.items() if name.isidentifier()}
    return {
        name: value
        for name, value in names.copy().items()
        if not name.startswith("__") and not isinstance(value, ModuleType | FunctionType | type)
    }


def _globals_of(code: CodeType, namespace: dict[str, Any]) -> dict[str, Any]:
    found = {
        name: namespace[name]
        for name in code.co_names
        if name in namespace and not name.startswith("__")
    }
    return dict(list(found.items())[:_MOST_GLOBALS])


def _source(frame: FrameType, line: int) -> Source:
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    if sum(map(len, lines)) <= _WHOLE_FILE:
        return Source(1, "".join(lines))
    first = max(1, min(frame.f_code.co_firstlineno, line), line - 10 * _AROUND)
    return Source(first, "".join(lines[first - 1 : line + _AROUND])[:_WHOLE_FILE])


def _copy(picture: Picture, values: list[Any], error: BaseException, limits: Limits) -> None:
    """Fill ``picture`` with copies, as far as time and room allow."""
    picture.values = [Kept("text", type(value).__qualname__, _LATE) for value in values]
    hung = sum(thread.name == _NAME for thread in threading.enumerate())
    if hung >= _HUNG:
        picture.notes.append("Values are not copied: those of earlier failures are still at it.")
        return
    thread = threading.Thread(
        target=_copies, args=(picture, values, error, limits), name=_NAME, daemon=True
    )
    thread.start()
    thread.join(limits.seconds)
    if thread.is_alive():
        picture.notes.append(
            f"To copy the values took longer than {limits.seconds:g} s: some are missing."
        )


_LATE = "<it was not copied in time>"


def _copies(picture: Picture, values: list[Any], error: BaseException, limits: Limits) -> None:
    left = limits.total
    one: BaseException | None = error
    for raised in picture.chain:
        assert one is not None
        raised.shown = short(one)
        one = led_to(one)
    for number, value in enumerate(values):
        if left <= 0:
            kept = Kept("text", type(value).__qualname__, "<there was no room for it>")
        else:
            kept = keep(value, min(limits.each, left))
        left -= len(kept.pickle) + len(kept.shown)
        picture.values[number] = kept
    if left <= 0:
        picture.notes.append(f"The values of the outer frames had no room: {limits.total:,} bytes.")
