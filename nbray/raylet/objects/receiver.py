"""Fetches parts of objects from other raylets, straight into the arena or a mapped file.

A raylet that is asked for a part may name another that gives it (see `tree`): the thread fetches it
from there, and says to the first one whether it came. One of this machine may name the place where
the part lies: the thread copies it from there. The part is held for it until it says so, or until
the connection is reset: then saying so fails, and what was copied does not count.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from nbray.common.shortages import is_shortage
from nbray.common.threads import ThreadPool
from nbray.object_store.neighbour import Neighbour
from nbray.wire.bulk import (
    HEAD,
    LONGEST_TEXT,
    MISSED,
    NO_MACHINE,
    RECEIVED,
    BulkSocket,
    Kind,
    Place,
    Request,
    connect,
    limit_stalls,
)
from nbray.wire.handshake import HandshakeError
from nbray.wire.tls import Tls

logger = logging.getLogger(__name__)

_AT_ONCE = 4
_IDLE_S = 5.0
_ATTEMPTS = 3
_MEMORY_AGAIN_S = 10.0


def _nothing() -> None:
    """Most parts need no preparation."""


class TransferError(Exception):
    """A part of an object did not come; the text says why."""


class UnreachedError(TransferError):
    """Its node could not be asked, or could not look: if it lives, it may have the part."""


class ObjectReceiver:
    """The sockets to one other raylet.

    Threads of its own wait there, so that a node which stands still keeps no other waiting.

    Args:
        name: the node, in errors.
        host: its address.
        port: that of its frame wire.
        token: the cluster's secret.
        tls: what this node shows; None without TLS.
        connect_s: how long it may take to connect.
        stall_s: who sends nothing for so long is out of reach.
        other: the receiver from another node that this one named; None if it is dead. Called in a
            thread of this receiver's.

    Attributes:
        received: so many bytes of objects have come from that node.
    """

    def __init__(
        self, name: str, host: str, port: int, token: bytes, tls: Tls | None, connect_s: float,
        stall_s: float, other: Callable[[bytes], ObjectReceiver | None],
    ) -> None:  # fmt: skip
        self._name = name
        self._place = host, port
        self._token = token
        self._tls = tls
        self._connect_s = connect_s
        self._stall_s = stall_s
        self._other = other
        self._threads = ThreadPool(_AT_ONCE, "receive")
        self._idle: list[tuple[BulkSocket, float]] = []
        self._busy: set[BulkSocket] = set()
        self._lock = threading.Lock()
        self._closed = False
        self._fetching = 0
        self._used = time.monotonic()
        self._neighbour: Neighbour | None = None
        self._no_memory_until = 0.0
        self.received = 0

    @property
    def is_near(self) -> bool:
        """Whether what comes from there is copied out of memory."""
        return self._neighbour is not None

    def keep(self) -> None:
        """Somebody is about to fetch."""
        self._used = time.monotonic()

    def is_idle(self, seconds: float) -> bool:
        """Whether nobody has fetched anything for so long."""
        return not self._fetching and time.monotonic() - self._used > seconds

    async def fetch(
        self, request: Request, target: memoryview, prepare: Callable[[], None] = _nothing
    ) -> None:
        """Write a part of an object into ``target``; nobody writes there when this returns.

        ``prepare`` is called first, in a thread.

        Raises:
            UnreachedError: it did not come now. TransferError: it is not there.
        """

        def work_on() -> None:
            prepare()
            self._fetch(request, target)

        try:
            work = self._threads.submit(work_on)
        except RuntimeError as error:
            why = "is dead" if self._closed else f"is not asked: {error}"
            raise UnreachedError(f"{self._name} {why}") from None
        waiting = asyncio.ensure_future(asyncio.wrap_future(work))
        self._fetching += 1
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            self.close()  # a thread that writes has to end before the room is another's
            await asyncio.wait([waiting])
            raise
        finally:
            self._fetching -= 1
            self.keep()

    def close(self) -> None:
        """End all sockets; those who wait on them hear of it."""
        with self._lock:
            self._closed = True
            for sock in [*self._busy, *(sock for sock, _ in self._idle)]:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # the peer was faster
            for sock, _ in self._idle:
                sock.close()
            self._idle.clear()
            self._neighbour = None  # the mapping ends with the last thread that copies
        self._threads.shutdown(wait=False)

    # --- in a thread --------------------

    def _fetch(self, request: Request, target: memoryview) -> None:
        for attempt in range(_ATTEMPTS):
            if time.monotonic() < self._no_memory_until:
                request = replace(request, machine=NO_MACHINE)
            try:
                sock = self._take()
            except (OSError, HandshakeError) as error:
                raise UnreachedError(f"{self._name} cannot be reached: {error}") from error
            try:
                self._receive(sock, request, target)
            except BaseException as error:
                refused = isinstance(error, TransferError)
                self._give_back(sock, usable=refused)
                # A cut connection is no death: it is made again, and the part comes anew.
                if not isinstance(error, ConnectionError) or attempt == _ATTEMPTS - 1:
                    if isinstance(error, OSError):
                        silent = isinstance(error, (ConnectionError, TimeoutError))
                        passes = silent or is_shortage(error)
                        kind = UnreachedError if passes else TransferError
                        raise kind(f"the connection to {self._name}: {error}") from error
                    raise
            else:
                self._give_back(sock, usable=True)
                return

    def _receive(self, sock: BulkSocket, request: Request, target: memoryview) -> None:
        """Ask for a part and write it whole.

        Raises:
            TransferError: the other side has not got it. OSError: the connection failed.
        """
        sock.sendall(request.pack())
        while True:
            answer = _answer(sock, target)
            if isinstance(answer, Place):
                self._copy(answer, target)
            if not isinstance(answer, bytes):
                with self._lock:
                    self.received += len(target)
            if not isinstance(answer, bytes) or self._fetch_from(answer, request, target):
                sock.sendall(RECEIVED)
                return
            sock.sendall(MISSED)

    def _copy(self, place: Place, target: memoryview) -> None:
        """Take a part out of memory of this machine.

        Raises:
            ConnectionError: it cannot be read, and is to be asked for anew.
        """
        try:
            self._mapped(place).copy(place.offset, target)
        except (OSError, ValueError) as error:
            self._no_memory_until = time.monotonic() + _MEMORY_AGAIN_S
            logger.info("The memory of %s is not read in place now: %s", self._name, error)
            raise ConnectionAbortedError("its memory cannot be read") from error

    def _mapped(self, place: Place) -> Neighbour:
        """The arena of the other raylet.

        Raises:
            OSError: it cannot be mapped.
        """
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("it is dead")
            if self._neighbour is None:
                self._neighbour = Neighbour(place)
            return self._neighbour

    def _fetch_from(self, node_id: bytes, request: Request, target: memoryview) -> bool:
        """Whether a part came from the node that this one named."""
        other = self._other(node_id)
        if other is None:
            return False
        try:
            other._fetch(replace(request, sent_on=True), target)
        except TransferError as error:
            logger.info("Part of an object is asked for elsewhere: %s", error)
            return False
        finally:
            other.keep()
        return True

    def _take(self) -> BulkSocket:
        """A socket that nobody else uses.

        Raises:
            OSError, HandshakeError: as `connect` does.
        """
        now = time.monotonic()
        with self._lock:
            while self._idle:
                sock, since = self._idle.pop()
                if now - since < _IDLE_S:
                    self._busy.add(sock)
                    return sock
                sock.close()
        sock = connect(*self._place, self._token, self._connect_s, self._tls)
        limit_stalls(sock, socket.SO_RCVTIMEO, self._stall_s)
        with self._lock:
            if self._closed:
                sock.close()
                raise ConnectionAbortedError("it is dead")
            self._busy.add(sock)
        return sock

    def _give_back(self, sock: BulkSocket, usable: bool) -> None:
        with self._lock:
            self._busy.discard(sock)
            if usable and not self._closed:
                self._idle.append((sock, time.monotonic()))
            else:
                # At once: a sender whose window is closed would wait for nobody until it gives up.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()


def _answer(sock: BulkSocket, target: memoryview) -> bytes | Place | None:
    """Take an answer; None: it was the part, and is written; else the node or place to ask.

    Raises:
        TransferError: the other side has not got it. OSError: the connection failed.
    """
    head = bytearray(HEAD.size)
    _fill(sock, memoryview(head))
    kind, length = HEAD.unpack(head)
    if kind == Kind.BYTES:
        if length != len(target):
            raise OSError("its node sends a part of the wrong length")
        _fill(sock, target)
        return None
    text = bytearray(min(length, LONGEST_TEXT))
    _fill(sock, memoryview(text))
    if kind == Kind.ELSEWHERE:
        return bytes(text)
    if kind == Kind.MEMORY:
        return Place.unpack(text)
    sock.sendall(RECEIVED)
    raise TransferError(text.decode(errors="replace"))


def _fill(sock: BulkSocket, target: memoryview) -> None:
    received = 0
    while received < len(target):
        try:
            count = sock.recv_into(target[received:], 0, socket.MSG_WAITALL)
        except BlockingIOError:
            raise TimeoutError("nothing came for too long") from None
        if not count:
            raise ConnectionResetError("it was closed")
        received += count
