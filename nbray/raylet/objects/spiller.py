"""Values on their way to disk: what goes is decided by `nbray.object_store.spilling`.

A disk that failed or is full is left alone for a while, and why is kept for those who find no room.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from nbray.common.config import Config
from nbray.object_store.arena import Arena
from nbray.object_store.spilling import bytes_to_spill, next_batch
from nbray.raylet.objects.spill_files import DiskFullError, SpillFiles
from nbray.raylet.objects.table import ObjectTable, Place
from nbray.wire.causes import Cause, CauseKind

logger = logging.getLogger(__name__)

_WRITES_AT_ONCE = 2


class Spiller:
    """Writes values of the arena into files, and gives places in files to new ones.

    Args:
        arena: where the values are.
        table: what is known of them.
        files: where they go.
        config: thresholds and periods.
        on_written: called when some are on disk, or could not be written.

    Attributes:
        error: why the disk took nothing the last time.
        last_progress: when something was written last, by the monotonic clock.
    """

    def __init__(
        self,
        arena: Arena,
        table: ObjectTable,
        files: SpillFiles,
        config: Config,
        on_written: Callable[[], None],
    ) -> None:
        self.error: Cause | None = None
        self.last_progress = 0.0
        self._arena = arena
        self._table = table
        self._files = files
        self._config = config
        self._on_written = on_written
        self._file_bytes = min(config.spill_file_bytes, table.allocator.capacity // 8)
        self._writes: set[asyncio.Task[None]] = set()
        self._rests_until = 0.0
        self._refused = 0

    def takes(self, size: int) -> bool:
        """Whether it is worth while to ask the disk for a place of so many bytes now."""
        return time.monotonic() >= self._rests_until or size < self._refused

    def can_make_room(self) -> bool:
        """Whether the arena becomes emptier, or could."""
        if self._writes:
            return True
        return time.monotonic() >= self._rests_until and any(True for _ in self._table.dirty())

    def is_needed(self) -> bool:
        """Whether values have to go to disk now."""
        threshold = self._config.object_spilling_threshold
        return bool(bytes_to_spill(self._table.state(0), threshold))

    async def place(self, size: int) -> Place | None:
        """A place for a new value that a process will write itself; None if there is none."""
        try:
            place = await self._files.new_value(size, self._file_bytes)
        except DiskFullError as error:
            self._rest(_disk_is_full(error), size)
        except OSError as error:
            self._rest(f"The disk failed: {error}.")
            logger.error("A value of %d bytes has no room: %s.", size, error)
        else:
            self.error = None
            return place
        return None

    async def place_for_copy(self, size: int) -> Place:
        """A place for a copy of another node's value.

        Raises:
            DiskFullError: there is none. OSError: the disk failed.
        """
        return await self._files.new_value(size, self._file_bytes)

    def spill(self, wanted: int) -> None:
        """Write what has to go, when creations that need ``wanted`` bytes wait."""
        while len(self._writes) < _WRITES_AT_ONCE and time.monotonic() >= self._rests_until:
            missing = bytes_to_spill(
                self._table.state(wanted), self._config.object_spilling_threshold
            )
            batch = next_batch(self._table.dirty(), missing, self._file_bytes)
            if not batch:
                return
            values = [
                self._arena.view(self._table.start_moving(object_id), size)
                for object_id, size in batch
            ]
            object_ids = [object_id for object_id, _ in batch]
            write = asyncio.get_running_loop().create_task(self._write(object_ids, values))
            self._writes.add(write)
            write.add_done_callback(self._written)

    async def _write(self, object_ids: list[bytes], values: list[memoryview]) -> None:
        places: list[Place | None] = [None] * len(object_ids)
        try:
            places[:] = await self._files.write(values, self._file_bytes)
            self.last_progress = time.monotonic()
            if self.last_progress >= self._rests_until:  # not one that began before it
                self.error = None
        except DiskFullError as error:
            self._rest(_disk_is_full(error))
            logger.warning("Values stay in memory: %s.", error)
        except OSError as error:
            self._rest(f"The disk failed: {error}.")
            logger.error("Values stay in memory: %s.", error)
        finally:
            for object_id, place in zip(object_ids, places, strict=True):
                self._table.moved(object_id, place)

    def _rest(self, text: str, refused: int = 0) -> None:
        """Leave the disk alone for a while, with all that has at least ``refused`` bytes."""
        self._refused = refused
        self.error = Cause(CauseKind.DISK_FULL, text)
        self._rests_until = time.monotonic() + self._config.spill_retry_s

    def _written(self, write: asyncio.Task[None]) -> None:
        self._writes.discard(write)
        if not write.cancelled():
            write.result()
            self._on_written()


def _disk_is_full(error: DiskFullError) -> str:
    return (
        "Local disk is full\nThe object cannot be created because the local object store is full "
        f"and the local disk's utilization is over capacity: {error}.\nDrop refs and arrays that "
        "are not needed, start the node with a larger object_store_memory, or make room on the "
        "disk."
    )
