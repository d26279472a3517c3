"""Tasks of this notebook that failed, as their workers saw it; a debugger walks their frames."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import msgspec

from nbray.debugging.pictures import Picture, decode
from nbray.debugging.rebuilding import FindGlobals, opened, remember_sources, traceback_of
from nbray.debugging.taking import led_to
from nbray.debugging.talk import read_failed
from nbray.notebook import KeptTask, OutputSource, TaskSays, engine

_MOST_BYTES = 32 << 20
_MOST_TASKS = 20
_ARRIVES_S = 2.0


@dataclass(frozen=True)
class Failure:
    """One that failed: which task, its picture as it came, and itself, to be run again."""

    source: OutputSource
    data: bytes
    task: KeptTask | None = None


class Failures:
    """Those that are kept: of the newest cells, and of each cell the first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Failure] = OrderedDict()
        self._bytes = 0
        self._arrived = threading.Condition()

    def add(self, message: TaskSays) -> None:
        """One has come; on the thread that drives the sockets."""
        failed = read_failed(message.content)
        task = engine().asides.keep_task(failed.task) if failed.task else None
        failure = Failure(message.source, failed.picture, task)
        with self._arrived:
            before = self._kept.pop(message.source.task_id.hex(), None)
            self._bytes += len(failure.data) - (len(before.data) if before else 0)
            self._kept[message.source.task_id.hex()] = failure
            while self._bytes > _MOST_BYTES and len(self._kept) > 1:
                oldest = next(iter(self._kept))
                if self._kept[oldest].source.origin == message.source.origin:
                    oldest = next(reversed(self._kept))  # the first failures are those that matter
                self._bytes -= len(self._kept.pop(oldest).data)
            for old in list(self._kept)[:-_MOST_TASKS]:
                self._kept[old] = replace(self._kept[old], task=None)
            self._arrived.notify_all()

    def of(self, tasks: Sequence[str], wait: bool = False) -> list[Failure]:
        """Those of these tasks that are kept, in this order.

        Args:
            tasks: their ids.
            wait: a moment, for what is on its way.
        """
        with self._arrived:
            if wait:
                self._arrived.wait_for(lambda: self._kept.keys() >= set(tasks), _ARRIVES_S)
            return [self._kept[task] for task in tasks if task in self._kept]


def rebuilt(
    failures: Sequence[Failure], error: BaseException | None, namespace: Mapping[str, Any]
) -> tuple[BaseException, TracebackType | None, list[str]]:
    """What a debugger needs: the exception, its traceback, and what a person should know of it.

    Args:
        failures: the tasks that it went through, that which raised first.
        error: the exception, if it could be sent.
        namespace: of the notebook, which the frames of its cells see.
    """

    def find(module: str) -> Mapping[str, Any]:
        if module == "__main__":
            return namespace
        return vars(sys.modules[module]) if module in sys.modules else {}

    notes: list[str] = []
    tb: TracebackType | None = None
    shown = ""
    pictures = [_picture(failure) for failure in failures]
    for number, picture in enumerate(pictures):
        remember_sources(picture)
        values = opened(picture.values, find)
        first = picture.chain[0] if picture.chain else None
        if first is not None:
            tb = traceback_of(first.frames, values, find, tb)
            shown = shown or first.shown
            if first.skipped:
                notes.append(f"{first.skipped:,} frames in the middle are left out.")
        notes += picture.notes
        if number == 0:
            error = error or RuntimeError(shown)
            _trace_causes(error, picture, values, find)
    assert error is not None
    return error.with_traceback(tb), tb, notes


def function_of(failure: Failure, namespace: Mapping[str, Any]) -> Any:
    """The function that failed, as the notebook has it now; None: it has no such."""
    picture = _picture(failure)
    if not picture.chain or not picture.chain[0].frames:
        return None
    frame = picture.chain[0].frames[0]
    names = namespace if frame.module == "__main__" else vars(sys.modules.get(frame.module, sys))
    found = names.get(frame.function)
    return getattr(found, "_function", found)


def _picture(failure: Failure) -> Picture:
    try:
        return decode(failure.data)
    except msgspec.DecodeError as problem:
        return Picture(notes=[f"The picture of {failure.source.name} cannot be read: {problem}"])


def _trace_causes(
    error: BaseException, picture: Picture, values: Sequence[Any], find: FindGlobals
) -> None:
    """Give what led to the error its frames, too: a debugger's ``exceptions`` goes there."""
    one = led_to(error)
    for raised in picture.chain[1:]:
        if one is None:
            return
        one.__traceback__ = traceback_of(raised.frames, values, find)
        one = led_to(one)
