"""The store: writes in one order, many in a transaction, acknowledged when they are durable.

Theory. All writes of the process form one sequence, in the order of the calls. One thread takes
whatever has gathered and gives it to the backend as one transaction (group commit), so the event
loop never waits for a disk, and a busy GCS makes few transactions. Therefore what is durable is
always a beginning of the sequence: a GCS that is killed comes back to a moment that it was in,
never to a mixture, also across tables. Within a transaction only the last write of a row counts.

A transaction that fails is tried again for ``retry_s`` seconds, while those who wait for it go on
waiting. After that the store is broken for good: every wait raises `StorageError` and
``on_broken`` is called, since a GCS that cannot keep what it promises has to leave.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from nbray.gcs.storage.backend import Backend, Batch, StorageError

logger = logging.getLogger(__name__)

_RETRY_DELAY_S = 0.2


class Store:
    """The tables of one GCS; see the head of this module. Used in the event loop only.

    Attributes:
        on_broken: called in the event loop, with the reason, when a write has failed for good.
    """

    def __init__(self, backend: Backend, retry_s: float = 30.0) -> None:
        self.on_broken: Callable[[str], None] = lambda reason: None
        self._backend = backend
        self._retry_s = retry_s
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Condition()
        self._queued: Batch = {}
        self._writing: Batch = {}
        self._written = 0
        self._durable = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._broken = ""
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="gcs-storage", daemon=True)
        self._thread.start()

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        """All rows of a table; blocks, and is for the start, before anything is written.

        Raises:
            StorageError: they cannot be read.
        """
        return list(self._backend.rows(table))

    def keys(self, table: str) -> list[bytes]:
        """The keys of a table, as `rows` has its rows.

        Raises:
            StorageError: they cannot be read.
        """
        return list(self._backend.keys(table))

    async def read(self, table: str, key: bytes) -> bytes | None:
        """One row as it was written last, for tables that are too large to be held in memory.

        Raises:
            StorageError: it cannot be read.
        """
        with self._lock:
            for batch in (self._queued, self._writing):
                if (table, key) in batch:
                    return batch[table, key]
        return await asyncio.to_thread(self._backend.read, table, key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Write a row, soon."""
        self._queue(table, key, value)

    def delete(self, table: str, key: bytes) -> None:
        """Delete a row, soon; there need not be one."""
        self._queue(table, key, None)

    def together(self) -> AbstractContextManager[object]:
        """What is written within becomes durable together: a crash leaves all of it, or nothing."""
        return self._lock

    def _queue(self, table: str, key: bytes, value: bytes | None) -> None:
        with self._lock:
            self._queued[(table, key)] = value
            self._written += 1
            self._lock.notify()

    async def durable(self) -> None:
        """Returns when all writes that were queued before are durable.

        Raises:
            StorageError: they could not be made so.
        """
        if self._broken:
            raise StorageError(self._broken)
        if self._durable >= self._written:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((self._written, future))
        await future

    async def close(self) -> None:
        """Write what is queued, and let go of the backend."""
        try:
            await self.durable()
        finally:
            with self._lock:
                self._closed = True
                self._lock.notify()
            await asyncio.to_thread(self._thread.join)

    # --- in the thread --------------------

    def _write_all(self) -> None:
        while True:
            with self._lock:
                while not self._queued and not self._closed:
                    self._lock.wait()
                if self._closed:
                    break
                self._writing, self._queued = self._queued, {}
                upto = self._written
            reason = self._write(self._writing)
            with self._lock:
                self._writing = {}  # it may be large, and the next write far away
            self._loop.call_soon_threadsafe(self._settle, upto, reason)
            if reason:
                break
        self._backend.close()

    def _write(self, batch: Batch) -> str:
        """Write a batch; why it failed for good, or an empty text."""
        deadline = time.monotonic() + self._retry_s
        while True:
            try:
                self._backend.write(batch)
            except Exception as error:  # a lack of memory, too: without this thread all waits
                logger.error("%d rows were not written: %s", len(batch), error or repr(error))
                if time.monotonic() > deadline or self._closed:
                    return str(error) or repr(error)
                time.sleep(_RETRY_DELAY_S)
            else:
                return ""

    def _settle(self, upto: int, reason: str) -> None:
        if not reason:
            self._durable = upto
        else:
            self._broken = reason
        while self._waiting and (reason or self._waiting[0][0] <= upto):
            _, future = self._waiting.popleft()
            if future.done():
                continue  # who waited was cancelled
            if reason:
                future.set_exception(StorageError(reason))
            else:
                future.set_result(None)
        if reason:
            self.on_broken(reason)
