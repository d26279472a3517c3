"""Objects between nodes: who waits for one, where it is pulled from, who hears of its end.

An object that is asked for and lies elsewhere is pulled, in parts, into this node's arena as a
secondary copy; or into a file, when the arena has no room. The bytes go from one arena into the
other by threads (`transfers`). The node that it came from remembers
who has copies; so a free, which the owner's raylet sends to the nodes that the owner knows,
reaches them all.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from nbray.common.config import Config
from nbray.common.shortages import after_shortages
from nbray.object_store.arena import Arena
from nbray.raylet.nodes import NodeTable
from nbray.raylet.objects.admission import Admission
from nbray.raylet.objects.evacuation import Evacuation
from nbray.raylet.objects.local_store import LocalStore
from nbray.raylet.objects.spill_files import DiskFullError
from nbray.raylet.objects.table import Stored
from nbray.raylet.objects.transfers import Transfers
from nbray.raylet.process import Handlers, Process
from nbray.wire import object_messages as om
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import Handler
from nbray.wire.raylet_messages import DropObjects, KeepObjects, News, ProcessGone, TellOwner
from nbray.wire.records import Address
from nbray.wire.records import Stored as StoredValue
from nbray.wire.scaling_messages import TakeObjects
from nbray.wire.tls import Tls

logger = logging.getLogger(__name__)

_DROP_DELAY_S = 0.02
_ANNOUNCE_S = 0.5
_GONE_KEPT = 10_000


class ObjectManager:
    """The readers that wait on this node, and the transfers."""

    def __init__(
        self, node_id: bytes, store_bytes: int, spill_folder: Path, nodes: NodeTable,
        config: Config, token: bytes, tls: Tls | None, tell: Callable[[bytes, News], None],
    ) -> None:  # fmt: skip
        """``tell`` has another node hear news."""
        self.store = LocalStore(node_id, store_bytes, spill_folder, config)
        self.store.on_change = self._on_change
        self.store.on_evicted = self._on_evicted
        self.store.is_gone = lambda owner: bool(
            {owner.worker_id, owner.node_id} & self._gone.keys()
        )
        self._node_id = node_id
        self._nodes = nodes
        self._tell = tell
        self._transfers = Transfers(node_id, self.store, nodes, config, token, tls)
        self.take_bulk = self._transfers.sender.take
        self.received = self._transfers.received
        self._admission = Admission(store_bytes // 2)
        self._readers: dict[bytes, list[Process]] = {}
        self._pulls: dict[bytes, asyncio.Task[None]] = {}
        self._drops: dict[tuple[bytes, bytes], list[bytes]] = {}
        self._processes: dict[bytes, Process] = {}
        self._news: dict[tuple[bytes, bytes, bool, bytes], list[bytes]] = {}
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self.evacuation = Evacuation(node_id, self.store.table, nodes, self)

    def introduce(self, process: Process, name: str) -> None:
        """A process of this node, by the name that errors call it."""
        self._processes[process.worker_id] = process
        self.store.introduce(process, name)

    def handlers(self) -> Handlers:
        """What processes ask and say of objects."""
        return {
            **self.store.handlers(),
            om.DiscardObject: self.discard,
            om.GetObject: self.get,
            om.KeepCopies: self.keep,
            om.FreeObjects: self.free_for,
        }

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What other raylets say of objects."""
        return {
            "TellOwner": (TellOwner, self._told_owner),
            "TakeObjects": (TakeObjects, self.evacuation.take),
        }

    def heard(self) -> dict[type, Callable[[Any], None]]:
        """What is done with news of other nodes."""
        return {DropObjects: self.drop_objects, TellOwner: self.tell_owner, KeepObjects: self._kept}

    # --- a process of this node reads --------------------

    def get(self, process: Process, message: om.GetObject) -> None:
        """Pin an object for a process, and pull it first if it is not here."""
        object_id = message.object_id
        self._readers.setdefault(object_id, []).append(process)
        store = self.store.table
        if object_id in self._pulls or store.is_written(object_id):
            return
        if store.locate(object_id) is not None:
            self._settle(object_id, "")
            return
        sources = [n for n in message.stored.node_ids if n != self._node_id]
        if sources:
            pull = asyncio.get_running_loop().create_task(self._pull(message, sources))
            self._pulls[object_id] = pull
        else:
            # Who made it may have told others before its raylet: it comes within the moment.
            asyncio.get_running_loop().call_later(_ANNOUNCE_S, self._give_up, object_id)

    def _give_up(self, object_id: bytes) -> None:
        if object_id not in self._pulls and not self.store.table.is_written(object_id):
            self._settle(object_id, "it is not in the store of its node any more")

    def _on_change(self, object_id: bytes) -> None:
        self._transfers.announced(object_id)
        if object_id in self._readers:
            self._settle(object_id, "its owner freed it")

    def _settle(self, object_id: bytes, why: str, kind: CauseKind = CauseKind.LOST) -> None:
        """Answer all readers of an object: it is here now, or it is lost and this is why."""
        for process in self._readers.pop(object_id, ()):
            if process.closed:
                continue
            pinned = self.store.pin_for(process, object_id)
            if pinned is None:
                cause = Cause(kind, f"Object {object_id.hex()} is lost: {why}.")
                pinned = om.ObjectPinned(object_id, 0, 0, cause)
            process.send(pinned)

    # --- values of a node that drains --------------------

    async def bring(self, object_id: bytes, size: int, owner: Address, source: bytes) -> bool:
        """Have the copy that counts here, from that node if need be; whether it is.

        It counts from the moment it is complete: a moment later, room might have been made of it.
        """
        table = self.store.table
        while not self._keeps(object_id):
            pull = self._pulls.get(object_id)
            for_itself = pull is None
            if pull is None:
                if table.is_written(object_id):
                    return False
                wanted = om.GetObject(object_id, StoredValue(size, (source,)), owner)
                fetching = self._pull(wanted, [source], for_itself=True)
                pull = asyncio.get_running_loop().create_task(fetching)
                self._pulls[object_id] = pull
            await asyncio.wait([pull])
            if for_itself:
                return self._keeps(object_id) or self.store.is_gone(owner)
        return True

    def _keeps(self, object_id: bytes) -> bool:
        """Whether it is here; if so, this copy counts now."""
        table = self.store.table
        return table.locate(object_id) is not None and table.keep(object_id)

    async def announce(self, owner_node: bytes, owner_id: bytes, object_ids: list[bytes]) -> None:
        """Tell an owner of copies, and return when its raylet has heard.

        Raises:
            RpcError: it does not answer.
        """
        news = om.CopiesChanged(object_ids, self._node_id, True)
        if owner_node == self._node_id:
            self._pass_on(owner_id, news)
            return
        client = await self._nodes.client(owner_node)
        if client is not None:  # else the owner has ended, and so will its values
            await client.call("TellOwner", TellOwner(owner_id, news), Empty)

    # --- between nodes --------------------

    async def _pull(
        self, message: om.GetObject, sources: list[bytes], for_itself: bool = False
    ) -> None:
        """Fetch an object for those who read it, or ``for_itself``: to keep it here."""
        object_id, size = message.object_id, message.stored.size
        store = self.store
        cause, kind = "the transfer failed", CauseKind.LOST

        def wanted() -> bool:
            readers = self._readers.get(object_id, ())
            return for_itself or not all(process.closed for process in readers)

        await self._admission.enter(size)
        try:
            if not wanted():
                return
            offset = await store.room_for_copy(object_id, size, message.owner)
            if offset is not None:
                view = store.arena.view(offset, size)
                touch = partial(_touch, store.arena, offset)
                cause = await self._transfers.bring(object_id, sources, view, wanted, touch)
                if not cause:
                    store.table.seal(object_id)
            else:
                cause = await self._pull_to_disk(sources, object_id, size, message.owner, wanted)
            if for_itself and not cause:
                self._keeps(object_id)
            if not cause:
                self._tell_owner(object_id, message.owner.worker_id, message.owner.node_id, True)
        except DiskFullError as error:
            cause, kind = str(error), CauseKind.DISK_FULL
        except OSError as error:
            cause = f"the disk failed: {error}"
        finally:
            self._admission.leave(size)
            store.table.abort(object_id)
            del self._pulls[object_id]
            self._settle(object_id, cause, kind)
            store.serve()

    async def _pull_to_disk(
        self, sources: list[bytes], object_id: bytes, size: int, owner: Address,
        wanted: Callable[[], bool],
    ) -> str:  # fmt: skip
        place, view = await after_shortages(
            lambda: self.store.file_for_copy(size),
            lambda error: logger.warning("A copy on the disk is not begun yet: %s", error),
        )
        kept = False
        try:
            cause = await self._transfers.bring(object_id, sources, view, wanted)
            if not cause:
                self.store.table.create_on_disk(
                    object_id, size, owner.worker_id, owner.node_id, place
                )
                kept = True
            return cause
        finally:
            if not kept:
                self.store.files.drop(place)

    def free_for(self, _process: Process, message: om.FreeObjects) -> None:
        """An owner says that nobody refers to its objects any more."""
        self.free(message.object_ids, message.node_ids, message.maker)

    def free(
        self, object_ids: Iterable[bytes], node_ids: Iterable[bytes] = (), maker: bytes = b""
    ) -> None:
        """Nobody refers to the objects: forget them here, on ``node_ids``, and all copies.

        With ``maker``: only the copies on ``node_ids`` that this worker made.
        """
        for object_id in object_ids:
            holders = set(node_ids)
            if not maker:
                self.store.free(object_id, self._node_id in holders or not holders)
                holders |= self._transfers.forget(object_id)
            elif self._node_id in holders or not holders:
                stored = self.store.table.locate(object_id)
                creator = stored.creator if stored is not None else None
                if isinstance(creator, Process) and creator.worker_id == maker:
                    self.store.free(object_id)
            for node_id in holders - {self._node_id}:
                if not self._drops:
                    asyncio.get_running_loop().call_later(_DROP_DELAY_S, self._send_drops)
                self._drops.setdefault((node_id, maker), []).append(object_id)
        self.store.serve()

    def discard(self, process: Process, message: om.DiscardObject) -> None:
        """A process will not complete what it began to make, or nobody will use it."""
        object_id = message.object_id
        self.store.discard(process, object_id)
        if object_id in self._readers and not self.store.table.is_written(object_id):
            self._settle(object_id, "the process that made it gave it up")

    def _send_drops(self) -> None:
        drops, self._drops = self._drops, {}
        for (node_id, maker), object_ids in drops.items():
            self._tell(node_id, DropObjects(object_ids, maker))

    def drop_objects(self, news: DropObjects) -> None:
        """Another raylet says that objects are free."""
        self.free(news.object_ids, maker=news.maker)

    # --- owners hear where copies are --------------------

    def _on_evicted(self, evicted: list[tuple[bytes, Stored]]) -> None:
        for object_id, stored in evicted:
            self._tell_owner(object_id, stored.owner_id, stored.owner_node, False)

    def _tell_owner(
        self, object_id: bytes, owner_id: bytes, owner_node: bytes, has: bool, maker: bytes = b""
    ) -> None:
        if not self._news:
            asyncio.get_running_loop().call_later(_DROP_DELAY_S, self._send_news)
        # What was told before and is not true any more must not arrive last.
        opposite = self._news.get((owner_node, owner_id, not has, b""))
        if opposite is not None and object_id in opposite:
            opposite.remove(object_id)
        self._news.setdefault((owner_node, owner_id, has, maker), []).append(object_id)

    def _send_news(self) -> None:
        news, self._news = self._news, {}
        for (owner_node, owner_id, added, maker), object_ids in news.items():
            changed = om.CopiesChanged(object_ids, self._node_id, added, maker)
            if owner_node == self._node_id:
                self._pass_on(owner_id, changed)
            else:
                self._tell(owner_node, TellOwner(owner_id, changed))

    def _pass_on(self, owner_id: bytes, news: om.CopiesChanged) -> None:
        owner = self._processes.get(owner_id)
        if owner is not None:
            owner.send(news)

    def tell_owner(self, news: TellOwner) -> None:
        """Another raylet has news for a process of this node."""
        self._pass_on(news.owner_id, news.news)

    async def _told_owner(self, request: TellOwner) -> Empty:
        self.tell_owner(request)
        return Empty()

    def keep(self, _process: Process, message: om.KeepCopies) -> None:
        """The node that made objects died; the copies of ``node_id`` are the only ones now."""
        if message.node_id == self._node_id:
            self._keep(message.object_ids)
        else:
            self._tell(message.node_id, KeepObjects(message.object_ids))

    def _kept(self, news: KeepObjects) -> None:
        """An owner says that these copies are the only ones."""
        self._keep(news.object_ids)

    def _keep(self, object_ids: list[bytes]) -> None:
        for object_id in object_ids:
            self.store.table.keep(object_id)  # one that was evicted: its owner hears of that
        self.store.serve()

    # --- ends --------------------

    def look_after(self) -> None:
        """End what nothing has come through for long."""
        self._transfers.look_after()

    def stop(self) -> None:
        """End the transfers."""
        self._transfers.stop()
        self.store.stop()

    def process_gone(self, process: Process) -> None:
        """Drop what a process of this node wrote, read and owned, here and on other nodes."""
        self._processes.pop(process.worker_id, None)
        for object_id, stored in self.store.table.made_for_others(process, process.worker_id):
            self._tell_owner(object_id, stored.owner_id, stored.owner_node, True, process.worker_id)
        self._note_gone(process.worker_id)
        gone = self.store.process_gone(process)
        self.free(gone)
        for object_id in gone:
            self._settle(object_id, "the process that made or owned it has ended")
        if process.worker_id:
            for node in self._nodes.others():
                job_id = process.job_id if process.is_driver else b""
                self._tell(node.node_id, ProcessGone(process.worker_id, job_id))

    def _note_gone(self, some_id: bytes) -> None:
        """What is made for it from now on has no owner; it may still be on its way."""
        if some_id:
            self._gone[some_id] = None
            if len(self._gone) > _GONE_KEPT:
                self._gone.popitem(last=False)

    def owner_gone(self, worker_id: bytes) -> None:
        """A process of another node ended: so do its objects here."""
        self._note_gone(worker_id)
        self.free(self.store.table.owner_gone(worker_id))

    def node_gone(self, node_id: bytes) -> None:
        """A node died: so did the processes that owned objects here."""
        self._transfers.node_gone(node_id)
        self._note_gone(node_id)
        self.free(self.store.table.node_gone(node_id))


def _touch(arena: Arena, block: int, offset: int, size: int) -> None:
    arena.touch(block + offset, size)
