"""This node's object store: the arena with its table, creations that wait, and the disk.

A creation that finds no room waits in a queue while values go to disk (`Spiller`). Those behind it
may overtake it only when no room can be made: then the order does not help it, and they may fit.
When nothing can go to disk, since all of it is read or written, the new value itself is written
into a file, and so is one that is larger than the store. A creation fails when the disk has no room
either and nothing made progress for ``store_full_wait_s``; the error names who holds the store.

A value on disk is not brought back: its readers map the file, as they map the arena, so
the kernel's page cache is shared by all of them, and reading needs no room here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.shortages import is_shortage
from nbray.object_store.allocator import aligned
from nbray.object_store.arena import Arena, map_file
from nbray.object_store.neighbour import place_of
from nbray.raylet.objects.holders import Holders
from nbray.raylet.objects.sender import Part
from nbray.raylet.objects.spill_files import SpillFiles
from nbray.raylet.objects.spiller import Spiller
from nbray.raylet.objects.table import ObjectTable, Place, Stored
from nbray.raylet.process import Handlers, Process
from nbray.wire import object_messages as om
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import Address

logger = logging.getLogger(__name__)

_RETRY_S = 0.1
_SOONEST_LOOK_S = 0.005
_SLOW_LOOK_S = 0.5
_PREFAULT_DELAY_S = 2.0
_PREFAULT_STEP = 8 << 20


@dataclass(frozen=True)
class Room:
    """Where an object is to be written: in the arena, or in the file of ``path``."""

    offset: int
    path: str = ""


@dataclass(eq=False)
class _Creation:
    since: float
    object_id: bytes
    size: int
    owner: Address
    creator: Hashable
    secondary: bool
    label: str
    answer: Callable[[Room | Cause], None]


class LocalStore:
    """What lies on this node. ``on_change`` hears of every object that became readable."""

    def __init__(
        self, node_id: bytes, store_bytes: int, spill_folder: Path, config: Config
    ) -> None:
        self.arena = Arena.create(store_bytes)
        self.table = ObjectTable(store_bytes)
        self.files = SpillFiles(spill_folder, config.local_fs_capacity_threshold)
        self.on_change: Callable[[bytes], None] = lambda object_id: None
        self.is_gone: Callable[[Address], bool] = lambda owner: False
        self.on_evicted: Callable[[list[tuple[bytes, Stored]]], None] = lambda evicted: None
        self._node_id = node_id
        self._config = config
        capacity = self.table.allocator.capacity
        self._buffer_bytes = min(config.put_room_bytes, capacity // 64)
        self._creations: list[_Creation] = []
        self._in_files: list[_Creation] = []
        self._background = Background()
        self._retry: asyncio.TimerHandle | None = None
        self._spiller = Spiller(self.arena, self.table, self.files, config, self.serve)
        self._last_change = 0.0
        self._needed = 0
        self._holders = Holders(node_id, self.table)
        self.introduce = self._holders.introduce

    def start(self) -> None:
        """Get memory for the first part of the arena soon, if the machine has plenty."""
        asyncio.get_running_loop().call_later(_PREFAULT_DELAY_S, self._start_prefault)

    def stop(self) -> None:
        """Give up what waits for the disk."""
        self.files.close()

    def _start_prefault(self) -> None:
        threading.Thread(target=self._prefault, name="prefault", daemon=True).start()

    def _prefault(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        end = min(self._config.store_prefault_bytes, self.arena.size // 2)
        for offset in range(0, end, _PREFAULT_STEP):
            if psutil.virtual_memory().available < 2 * self.arena.size:
                return
            self.arena.prefault(offset, min(_PREFAULT_STEP, end - offset))

    def handlers(self) -> Handlers:
        """What processes ask and say of the store."""
        return {
            om.CreateObject: self.create,
            om.SealObject: self.seal,
            om.UnpinObjects: self.unpin,
            om.ObjectWritten: self.written,
            om.RequestBuffer: self.lend_buffer,
            om.ReturnBuffer: self.return_buffer,
        }

    def stats(self) -> dict[str, float]:
        """What the node table says of the store."""
        state = self.table.state(0)
        return {
            "store_used": float(state.used - state.clean),
            "store_total": float(state.capacity),
            "store_spilled": float(self.table.spilled_bytes),
            "objects": float(len(self.table)),
        }

    # --- writing --------------------

    def create(self, process: Process, message: om.CreateObject) -> None:
        """Make room for an object; answered at once, or when there is room, or too late."""

        def answer(room: Room | Cause) -> None:
            if isinstance(room, Room):
                created = om.ObjectCreated(message.object_id, room.offset, path=room.path)
            else:
                created = om.ObjectCreated(message.object_id, 0, room)
            process.send(created)

        self._create(
            _Creation(
                time.monotonic(), message.object_id, message.size, message.owner, process,
                False, message.label, answer,
            )
        )  # fmt: skip

    async def room_for_copy(self, object_id: bytes, size: int, owner: Address) -> int | None:
        """Room for a copy of another node's object; None when no room can be made now."""
        offset: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        def answer(room: Room | Cause) -> None:
            if not offset.done():
                offset.set_result(room.offset if isinstance(room, Room) else None)

        self._create(_Creation(time.monotonic(), object_id, size, owner, self, True, "", answer))
        return await offset

    def _create(self, creation: _Creation) -> None:
        self._creations.append(creation)
        self.serve()

    def serve(self) -> None:
        """Serve creations; to be called whenever room may have become free."""
        waiting: list[_Creation] = []
        hold_back = False
        for creation in self._creations:
            offset = None
            if not hold_back:
                offset = self.table.create(
                    creation.object_id, creation.size, creation.owner.worker_id,
                    creation.creator, creation.secondary, creation.label, creation.owner.node_id,
                )  # fmt: skip
            if offset is not None:
                self._created(creation, Room(offset))
            elif self._goes_to_disk(creation):
                self._in_files.append(creation)
                self._background.start(self._create_in_file(creation))
            elif (refused := self._refusal(creation)) is not None:
                creation.answer(refused)
            else:
                waiting.append(creation)
                hold_back = hold_back or (
                    self._spiller.can_make_room()
                    and creation.size <= self.table.allocator.capacity
                    and not self.table.is_busy(creation.object_id)
                )
        self._creations = waiting
        capacity = self.table.allocator.capacity
        self._spiller.spill(sum(aligned(c.size) for c in waiting if c.size <= capacity))
        self._clear_up()
        if waiting and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(_RETRY_S, self._serve_again)
            for holder in self.table.buffer_holders:
                if isinstance(holder, Process):
                    holder.send(om.ReclaimBuffer())

    def _created(self, creation: _Creation, room: Room) -> None:
        if self.is_gone(creation.owner):  # it ends as soon as it is complete
            self.table.free(creation.object_id)
        creation.answer(room)

    def _goes_to_disk(self, creation: _Creation) -> bool:
        """Whether an object that found no room is to be written into a file."""
        now = time.monotonic()
        if creation.secondary:
            return False
        if not self._spiller.takes(creation.size):
            return False
        if self.table.is_busy(creation.object_id):
            return False
        if creation.size > self.table.allocator.capacity:
            return True
        if self._spiller.can_make_room():
            return False
        state = self.table.state(0)
        if state.used - state.clean < self._needed:
            self._last_change = now
        self._needed = state.used - state.clean
        patience = self._config.store_to_disk_wait_s
        if self.table.buffer_holders:  # they are asked to return it
            return now - creation.since >= patience
        return now - max(self._last_change, self._spiller.last_progress) >= patience or (
            now - creation.since >= patience
        )

    async def _create_in_file(self, creation: _Creation) -> None:
        place = await self._spiller.place(creation.size)
        wanted = creation in self._in_files
        if wanted:
            self._in_files.remove(creation)
        if place is not None:
            if wanted and self.table.create_in_file(
                creation.object_id, creation.size, creation.owner.worker_id, creation.creator,
                creation.label, creation.owner.node_id, place,
            ):  # fmt: skip
                self._created(creation, Room(place.offset, self.files.path(place)))
                wanted = False
            else:
                self.files.drop(place)
        if wanted:
            self._creations.append(creation)
        self.serve()

    def _serve_again(self) -> None:
        self._retry = None
        self.serve()

    def _clear_up(self) -> None:
        table = self.table
        while table.dropped_places:
            self.files.drop(table.dropped_places.pop())
        if table.evicted:
            evicted, table.evicted = table.evicted, []
            self.on_evicted(evicted)

    def _refusal(self, creation: _Creation) -> Cause | None:
        """Why a creation that did not fit will not be served; None when it waits on."""
        capacity = self.table.allocator.capacity
        if creation.secondary and creation.size > capacity:
            return Cause(CauseKind.STORE_FULL, "it is larger than the store")
        if creation.size <= capacity and self._spiller.can_make_room():
            return None
        waited = time.monotonic() - max(creation.since, self._spiller.last_progress)
        if not creation.secondary and waited < self._config.store_full_wait_s:
            return None
        if self.table.is_busy(creation.object_id):
            return Cause(
                CauseKind.STORE_FULL,
                f"Object {creation.object_id.hex()} was not made again: for {waited:.0f} s its "
                "earlier value was being read or written.",
            )
        error = self._spiller.error
        if error is not None:
            text = f"{error.text}\nObject size is {creation.size} bytes.\n{self._holders.text()}"
            return Cause(error.kind, text)
        return Cause(CauseKind.STORE_FULL, "the store is full") if creation.secondary else None

    def seal(self, _process: Process, message: om.SealObject) -> None:
        """The object is complete: its readers go on."""
        self.table.seal(message.object_id)
        self.on_change(message.object_id)
        self.serve()

    # --- allocation buffers --------------------

    def lend_buffer(self, process: Process, _message: om.RequestBuffer) -> None:
        """A process that puts many values wants room for them, unless room is scarce."""
        offset = None
        if not self._creations and not self._spiller.is_needed():
            offset = self.table.lend_buffer(self._buffer_bytes, process)
        self._clear_up()
        process.send(om.BufferLent(offset or 0, 0 if offset is None else self._buffer_bytes))

    def written(self, process: Process, message: om.ObjectWritten) -> None:
        """A process wrote an object into room that it had."""
        owner = message.owner
        known = self.table.add_written(
            message.object_id, message.offset, message.size,
            process.worker_id if owner is None else owner.worker_id, process, message.label,
            b"" if owner is None else owner.node_id,
        )  # fmt: skip
        if not known:
            process.connection.close("it announced an object outside of its room")
            return
        if owner is not None and self.is_gone(owner):
            self.table.free(message.object_id)
        self.on_change(message.object_id)
        self.serve()

    def return_buffer(self, process: Process, message: om.ReturnBuffer) -> None:
        """A process does not need its room any more."""
        if not self.table.return_buffer(message.offset, message.size, process):
            process.connection.close("it returned room that it does not have")
        self.serve()

    # --- reading --------------------

    def pin_for(self, process: Process, object_id: bytes) -> om.ObjectPinned | None:
        """Pin an object for a process; None when it is not here."""
        stored = self.table.pin(object_id, process)
        if stored is None:
            return None
        if stored.block is not None:
            return om.ObjectPinned(object_id, stored.block, stored.size)
        assert stored.place is not None
        path = self.files.path(stored.place)
        return om.ObjectPinned(object_id, stored.place.offset, stored.size, path=path)

    def unpin(self, process: Process, message: om.UnpinObjects) -> None:
        """The process reads them no more."""
        for object_id in message.object_ids:
            self.table.unpin(object_id, process)
        self.serve()

    def locate(self, object_id: bytes) -> Stored | None:
        """The object, if it is complete here."""
        return self.table.locate(object_id)

    def lend(self, object_id: bytes, offset: int, length: int) -> Part | str:
        """Part of an object, to be sent to another node; or why there is none.

        Raises:
            OSError: there is, and something is lacking to send it now.
        """
        stored = self.table.pin(object_id, self)
        if stored is None:
            return f"it is not on node {self._node_id.hex()[:8]} any more"
        if offset < 0 or length < 0 or offset + length > stored.size:
            self._take_back(object_id)
            return f"it has no {length} bytes from {offset} on"
        place = None
        if stored.block is not None:
            view = self.arena.view(stored.block, stored.size)
            place = place_of(self.arena, stored.block + offset)
        else:
            assert stored.place is not None
            try:
                view = map_file(self.files.path(stored.place), stored.place.offset, stored.size)
            except OSError as error:
                self._take_back(object_id)
                if is_shortage(error):
                    raise
                return f"its file cannot be mapped: {error}"
        part = view[offset : offset + length]
        return Part(part, lambda _came: self._take_back(object_id), place)

    def lend_unfinished(self, object_id: bytes, offset: int, length: int) -> Part | None:
        """Part of a copy that is being written, and has come already; None if none is."""
        block = self.table.hold(object_id, self)
        if block is None:
            return None
        view = self.arena.view(block + offset, length)
        place = place_of(self.arena, block + offset)
        return Part(view, lambda _came: self._take_back(object_id), place)

    def _take_back(self, object_id: bytes) -> None:
        self.table.unpin(object_id, self)
        self.serve()

    async def file_for_copy(self, size: int) -> tuple[Place, memoryview]:
        """Room in a file for a copy, and a view to write it through.

        Raises:
            DiskFullError: there is none. OSError: the disk failed.
        """
        place = await self._spiller.place_for_copy(size)
        try:
            return place, map_file(self.files.path(place), place.offset, size, writable=True)
        except BaseException:  # no descriptor is left: its room is nobody's
            self.files.drop(place)
            raise

    # --- ends --------------------

    def free(self, object_id: bytes, may_come: bool = False) -> None:
        """Nobody refers to the object any more; `serve` is to be called afterwards.

        ``may_come``: it was made here, and its maker may not have announced it yet.
        """
        self.table.free(object_id, may_come)

    def discard(self, process: Process, object_id: bytes) -> None:
        """A process gives up what it makes, or waits to make."""
        for waiting in (self._creations, self._in_files):
            waiting[:] = [
                c for c in waiting if c.creator is not process or c.object_id != object_id
            ]
        self.table.discard(object_id, process)
        self.serve()

    def process_gone(self, process: Process) -> list[bytes]:
        """A process has no connection any more: what it owned ends, and what it waits for.

        Its pins, its room and what it is writing stay, until nobody sees them any more.

        Returns:
            the objects that it owned or was writing.
        """
        self._creations = [c for c in self._creations if c.creator is not process]
        self._in_files = [c for c in self._in_files if c.creator is not process]
        gone = self.table.unfinished_by(process) + self.table.owner_gone(process.worker_id)
        self._release(process, _SOONEST_LOOK_S)
        return gone

    def _release(self, process: Process, next_look_s: float) -> None:
        """Drop what a process without connection holds, unless it lives and has it mapped."""
        if self.arena.is_held(process.worker_id) and self.table.holds(process):
            asyncio.get_running_loop().call_later(
                next_look_s, self._release, process, min(2 * next_look_s, _SLOW_LOOK_S)
            )
            return
        self.table.process_gone(process)
        self._holders.forget(process)
        self.serve()
