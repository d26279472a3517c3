"""The store of the head node, whose bytes travel: values are sent to it and fetched from it.

What is fetched is in memory of this process's own, so the raylet is told at once that nothing
shows its copy any more. As long as an array over it lives, the same value is not fetched again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import socket
import time
from collections.abc import Callable
from weakref import WeakValueDictionary

from nbray.client.road import Road
from nbray.core_worker.values.memory import Attach
from nbray.core_worker.values.serialization import Serialized
from nbray.exceptions import GetTimeoutError, LocalRayletDiedError
from nbray.object_store.private_pages import PrivatePages
from nbray.wire.tunnel_messages import Read, Stop, Write

logger = logging.getLogger(__name__)

_STOP_S = 5.0
_PATIENCE_S = 10.0
_AGAIN_S = 0.1


class StreamedMemory:
    """See `nbray.core_worker.values.memory.StoreMemory`.

    Args:
        road: leads to the gateway.
        why_gone: why it does not any more.
        path: where the gateway finds the memory.
        size: its size.
    """

    is_mapped = False

    def __init__(self, road: Road, why_gone: Callable[[], str], path: str, size: int) -> None:
        self._road = road
        self._why_gone = why_gone
        self._path = path
        self._size = size
        self._tickets = itertools.count(1)
        self._fetched: WeakValueDictionary[bytes, mmap.mmap] = WeakValueDictionary()

    def write(self, packed: Serialized, path: str, offset: int) -> None:
        """Send a value to its place, and wait until it is there."""
        self._patiently("written into", lambda: self._write(packed, path, offset))

    def _write(self, packed: Serialized, path: str, offset: int) -> None:
        ticket = next(self._tickets)
        try:
            with self._road.open(
                Write(ticket, path or self._path, 0 if path else self._size, offset, packed.size)
            ) as sock:
                for part in packed.parts():
                    sock.sendall(part)
                if not sock.recv(1):
                    raise OSError(
                        "the gateway could not write it; gateway.log on the head says why"
                    )
        except BaseException:
            self._stop(ticket)
            raise

    def _patiently(
        self, done: str, act: Callable[[], None], deadline: float | None = None
    ) -> None:  # fmt: skip
        """Do it, and once more if it fails though the cluster is there.

        This process, its agent or the gateway may have no descriptor left for a moment.

        Raises:
            TimeoutError: not by the deadline. LocalRayletDiedError: it cannot be done.
        """
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                act()
                return
            except TimeoutError:
                raise
            except OSError as error:
                why = self._why_gone()
                no_agent = isinstance(error, (ConnectionRefusedError, FileNotFoundError))
                if why or no_agent or time.monotonic() >= until:
                    raise LocalRayletDiedError(
                        f"A value could not be {done} the object store of the head node: "
                        f"{why or error}"
                    ) from error
                logger.info("A value is not %s the store yet: %s", done, error)
            if deadline is not None and time.monotonic() + _AGAIN_S > deadline:
                raise TimeoutError
            time.sleep(_AGAIN_S)

    def _stop(self, ticket: int) -> None:
        """Return when no byte of a write is on its way any more; interrupts wait for that."""
        interrupt: BaseException | None = None
        deadline = time.monotonic() + _STOP_S
        while time.monotonic() < deadline:
            try:
                with self._road.open(Stop(ticket), _STOP_S) as sock:
                    while sock.recv(4096):
                        pass
                break
            except OSError:
                break  # it has gone, or has been closed with what it has not read
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt

    def read(
        self, object_id: bytes, path: str, offset: int, size: int, gone: Callable[[], None],
        deadline: float | None,
    ) -> memoryview:  # fmt: skip
        """Fetch a value."""
        try:
            memory = self._fetched.get(object_id)
            if memory is None or len(memory) != size:
                memory = self._fetch(path, offset, size, deadline)
                self._fetched[object_id] = memory
        finally:
            gone()
        return memoryview(memory).toreadonly()

    def _fetch(self, path: str, offset: int, size: int, deadline: float | None) -> mmap.mmap:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # pages of 2 MB, where the kernel has some to give
            memory.madvise(mmap.MADV_HUGEPAGE)

        def receive() -> None:
            with self._road.open(
                Read(path or self._path, 0 if path else self._size, offset, size)
            ) as sock:
                _receive(sock, memoryview(memory), deadline)

        try:
            self._patiently("read from", receive, deadline)
        except TimeoutError:
            raise GetTimeoutError(
                f"Get timed out while {size:,} bytes of a value were on their way."
            ) from None
        return memory

    def private(self, view: memoryview) -> PrivatePages | None:
        """None: what was fetched is shown by other arrays, too."""
        return None


def _receive(sock: socket.socket, target: memoryview, deadline: float | None) -> None:
    position = 0
    while position < len(target):
        if deadline is not None:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
        count = sock.recv_into(target[position:])
        if not count:
            raise OSError("it broke off")
        position += count


def attach_over(road: Road, why_gone: Callable[[], str]) -> Attach:
    """What gives the core worker of a remote driver its memory."""
    return lambda path, size, _holder_id: StreamedMemory(road, why_gone, path, size)
