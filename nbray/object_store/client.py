"""A process's side of the object store: room for what it writes, maps of what it reads.

To ask the raylet for room costs a round trip. A process that puts or returns many values therefore
has an *allocation buffer*: a block that the raylet lent it, of which it cuts places itself. Every
byte of such a block is at any time either uncut (the process may return it), cut and being
written (nobody else's either), or announced by `ObjectWritten`, and from then on the raylet's.
The raylet gives all that was not announced to others once the process has ended. New
room is asked for when half of the old one is left, so that a stream of puts never waits. Room
is returned when it was not used for a while, or when somebody waits for room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nbray.common.config import Config
from nbray.object_store.allocator import aligned
from nbray.wire import messages as m
from nbray.wire import object_messages as om

_BURST_S = 0.5


class Room:
    """The allocation buffer of one process.

    ``send`` gives a message to the raylet, from any thread and in order; ``later`` runs something
    under the baton after some seconds, and may be called under the baton only.
    """

    def __init__(
        self, config: Config, send: Callable[[m.Message], None],
        later: Callable[[float, Callable[[], None]], None],
    ) -> None:  # fmt: skip
        self._send = send
        self._later = later
        self._idle_s = config.put_room_idle_s
        # A finalizer of the program, or its handler of a signal, may write a value, too, and comes
        # in the middle of what its own thread does here: it finds no room, and asks the raylet.
        self._lock = threading.RLock()
        self._busy = False
        self._blocks: list[tuple[int, int]] = []  # offset and end of what is uncut
        self._cut: dict[bytes, tuple[int, int]] = {}  # offset and size of what is being written
        self._lent_size = config.put_room_bytes
        self._asked = False
        self._refused_until = 0.0
        self._last_use = -_BURST_S

    def cut(self, object_id: bytes, size: int) -> int | None:
        """A place for an object of ``size`` bytes; None: ask the raylet. From any thread."""
        size = aligned(size)
        if size > self._lent_size // 4:
            return None
        now = time.monotonic()
        offset = None
        with self._lock:
            if self._busy:
                return None
            try:
                self._busy = True
                burst = now - self._last_use < _BURST_S
                self._last_use = now
                for index, (start, end) in enumerate(self._blocks):
                    if start + size <= end:
                        self._blocks[index] = (start + size, end)
                        self._cut[object_id] = (start, size)
                        offset = start
                        break
                left = sum(end - start for start, end in self._blocks)
                ask = (
                    burst and not self._asked and left <= self._lent_size // 2
                    and now >= self._refused_until
                )  # fmt: skip
                self._asked = self._asked or ask
            finally:
                self._busy = False
        if ask:
            self._send(om.RequestBuffer())
        return offset

    def announced(self, object_id: bytes) -> None:
        """`ObjectWritten` has been sent for that object. Under the baton."""
        self._cut.pop(object_id, None)

    def give_up(self, object_id: bytes) -> None:
        """An object that was not announced will not be, as its writer was interrupted."""
        place = self._cut.pop(object_id, None)
        if place is not None:
            self._send(om.ReturnBuffer(*place))

    def lent(self, message: om.BufferLent) -> None:
        """The raylet's answer. Under the baton."""
        with self._lock:
            if self._busy:  # this thread, which got the baton in the middle of it
                self._later(0.0, lambda: self.lent(message))
                return
            try:
                self._busy = True
                self._asked = False
                old, self._blocks = self._blocks, []
                if message.size:
                    self._lent_size = message.size
                    self._blocks.append((message.offset, message.offset + message.size))
                    # What is too short for most values is not kept beside the new block.
                    self._blocks += [b for b in old if b[1] - b[0] > message.size // 4]
                    old = [b for b in old if b not in self._blocks]
                else:
                    self._refused_until = time.monotonic() + self._idle_s
                    self._blocks, old = old, []
            finally:
                self._busy = False
        self._return(old)
        if message.size:
            self._later(self._idle_s, self._check_idle)

    def _check_idle(self) -> None:
        if time.monotonic() - self._last_use >= self._idle_s:
            self._return_all()
        elif self._blocks:
            self._later(self._idle_s, self._check_idle)

    def reclaim(self) -> None:
        """Somebody waits for room: return what is uncut. Under the baton."""
        self._refused_until = time.monotonic() + self._idle_s
        self._return_all()

    def _return_all(self) -> None:
        with self._lock:
            if self._busy:
                self._later(0.0, self._return_all)
                return
            blocks, self._blocks = self._blocks, []
        self._return(blocks)

    def _return(self, blocks: list[tuple[int, int]]) -> None:
        for start, end in blocks:
            if start < end:
                self._send(om.ReturnBuffer(start, end - start))
