"""Profiles of cells: what is seen of their tasks in this worker goes to their notebook."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from nbray.core_worker.context import TaskContext
from nbray.debugging.marks import PROFILE, PROFILE_MEMORY
from nbray.debugging.talk import PROFILED
from nbray.wire.records import OutputSource

if TYPE_CHECKING:
    from nbray.debugging.sampling import Sampler, Seen

logger = logging.getLogger(__name__)

_CELLS = 100


class Telling(Protocol):
    """The way to the notebook (`run.asides`)."""

    def source(self) -> OutputSource | None:
        """The task of this thread or coroutine."""

    def tell(self, kind: str, content: bytes, source: OutputSource | None = None) -> bool:
        """Tell something of a task."""


class TaskProfiles:
    """Looks at the tasks of one worker whose cells are profiled: see `scope.Watching`."""

    def __init__(self, asides: Telling) -> None:
        self._asides = asides
        self._sampler: Sampler | None = None
        self._sources: OrderedDict[int, OutputSource] = OrderedDict()

    def enter(self, task: TaskContext) -> None:
        """A task begins in this thread. What goes wrong here is no matter of it."""
        if not task.origin & (PROFILE | PROFILE_MEMORY):
            return
        try:
            self._enter(task)
        except Exception:  # no thread or no descriptor is left
            logger.exception("%s is not profiled", task.name)

    def _enter(self, task: TaskContext) -> None:
        if self._sampler is None:
            from nbray.debugging.sampling import Sampler  # few workers are looked at

            self._sampler = Sampler(self._tell)
        source = self._asides.source()
        if source is not None:
            self._sources[task.origin] = source
            if len(self._sources) > _CELLS:
                self._sources.popitem(last=False)
        self._sampler.enter(task.name, task.origin)

    def leave(self, task: TaskContext) -> None:
        """It ends. What goes wrong here is no matter of the task."""
        if self._sampler is None:
            return
        try:
            self._sampler.leave(task.name, task.origin)
        except Exception:  # of what looks into the interpreter
            logger.exception("The profile of %s is not complete", task.name)

    def _tell(self, origin: int, seen: Seen) -> None:
        from nbray.debugging.sampling import encode

        source = self._sources.get(origin)
        if source is not None:
            self._asides.tell(PROFILED, encode(seen), source)
