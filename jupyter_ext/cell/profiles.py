"""Where the time and the memory of cells went, joined of what their workers see."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from nbray.debugging.sampling import Seen, decode
from nbray.notebook import TaskSays

_CELLS = 20
_MOST_STACKS = 20_000
_MORE = "(many more stacks)"


@dataclass
class Profile:
    """What is known of one cell.

    Attributes:
        time: microseconds by stack.
        memory: bytes by stack.
        ended: tasks that have ended.
        arrived: when the last of it came.
        peaks: the most memory that each worker had, in bytes.
        how: by what it was seen.
        notes: what of its memory is an estimate, by worker.
    """

    time: dict[str, int] = field(default_factory=dict)
    ended: int = 0
    arrived: float = 0.0
    peaks: dict[tuple[bytes, int], int] = field(default_factory=dict)
    how: str = "looks from inside the workers"
    notes: dict[tuple[bytes, int], str] = field(default_factory=dict)
    _grown: dict[str, int] = field(default_factory=dict)
    _exact: dict[tuple[bytes, int], dict[str, int]] = field(default_factory=dict)

    def add(self, node_id: bytes, seen: Seen) -> None:
        """A worker has seen more."""
        worker = node_id, seen.pid
        _join(self.time, seen.time)
        self.ended += seen.ended
        self.arrived = time.monotonic()
        self.peaks[worker] = max(seen.peak, self.peaks.get(worker, 0))
        if seen.exact:
            if sum(seen.memory.values()) > sum(self._exact.get(worker, {}).values()):
                self._exact[worker] = seen.memory
                self.notes[worker] = seen.note
        else:
            _join(self._grown, seen.memory)

    @property
    def exact(self) -> bool:
        """Whether its memory is that of allocations, not what the workers have grown by."""
        return bool(self._exact)

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by stack."""
        if not self._exact:
            return self._grown
        joined: dict[str, int] = {}
        for found in list(self._exact.values()):
            _join(joined, found)
        return joined


def _join(into: dict[str, int], more: dict[str, int]) -> None:
    for stack, amount in more.items():
        if stack not in into and len(into) >= _MOST_STACKS:
            stack = _MORE
        into[stack] = into.get(stack, 0) + amount


class Profiles:
    """Those of the last profiled cells."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Profile] = OrderedDict()
        self._lock = threading.RLock()  # a finalizer of its thread may get the baton

    def add(self, message: TaskSays) -> None:
        """A worker has seen something; on the thread that drives the sockets."""
        seen = decode(message.content)
        with self._lock:
            profile = self._kept.get(message.source.origin)
            if profile is None:
                profile = self._kept[message.source.origin] = Profile()
                if len(self._kept) > _CELLS:
                    self._kept.popitem(last=False)
            profile.add(message.source.node_id, seen)

    def of(self, number: int) -> Profile | None:
        """That of a cell."""
        return self._kept.get(number)

    def numbers(self) -> list[int]:
        """The cells that have one, oldest first."""
        with self._lock:
            return list(self._kept)
