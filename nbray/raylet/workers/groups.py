"""Placement groups on this node: its bundles, and what its processes ask of the GCS about groups.

The GCS reserves bundles here, commits and releases them; each of these may be asked for twice.
What the processes ask is passed on in their order, all that came meanwhile in one call: a driver
that makes a hundred groups costs a few calls. What runs in a group that is not here waits until
the GCS says that it is created, and is then moved to a node that has it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from nbray.common.background import Background
from nbray.raylet.process import Handlers, Process
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.resource_set import ResourceSet
from nbray.wire import gcs_messages as g
from nbray.wire import group_messages as gm
from nbray.wire.grpc_service import GrpcClient, RefusedError
from nbray.wire.records import GroupSpec

logger = logging.getLogger(__name__)

_WAIT_S = 3600.0
_AGAIN_S = 0.2
_KEPT_S = 2.0


class Tenants(Protocol):
    """What runs in bundles."""

    def end_in(self, bundles: list[ResourceSet]) -> None: ...


class Leases(Tenants, Protocol):
    """What waits for bundles, too."""

    def bundles_changed(self, lacking: bool) -> None: ...

    def on_nodes_changed(self) -> None: ...

    def refuse_group(self, group_id: bytes) -> None: ...


class GroupManager:
    """Bundles of this node, and groups for its processes.

    ``refresh`` brings the rows of all nodes anew.
    """

    def __init__(
        self,
        gcs: GrpcClient,
        resources: NodeResources,
        leases: Leases,
        actors: Tenants,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._gcs = gcs
        self._resources = resources
        self._leases = leases
        self._actors = actors
        self._refresh = refresh
        self._background = Background()
        self._create: dict[bytes, GroupSpec] = {}
        self._remove: list[bytes] = []
        self._asked: dict[bytes, list[Process]] = {}
        self._watched: dict[bytes, list[Process]] = {}
        self._passing = False
        self._passed = asyncio.Event()
        self._passed.set()
        self._looked_for: set[bytes] = set()

    def handlers(self) -> Handlers:
        """What processes ask of groups."""
        return {
            gm.CreateGroup: self.create,
            gm.WatchGroup: self.watch,
            gm.RemoveGroup: self.remove,
        }

    # --- for the GCS --------------------

    async def change_bundles(self, request: g.ChangeBundles) -> g.BundlesChanged:
        """Release, commit and reserve bundles; those that run in released ones are ended."""
        self._end_in(self._resources.release((key.group_id, key.index) for key in request.release))
        for key in request.commit:
            self._resources.commit(key.group_id, key.index)
        wanted: dict[bytes, list[g.BundleRequest]] = {}
        for bundle in request.reserve:
            wanted.setdefault(bundle.key.group_id, []).append(bundle)
        refused = []
        for group_id, requested in wanted.items():
            bundles = {bundle.key.index: bundle.resources for bundle in requested}
            if group_id in request.patient:  # also if another node refuses it this time
                self._resources.keep_room(group_id, bundles, time.monotonic() + _KEPT_S)
            if not self._resources.reserve(group_id, bundles):
                refused.append(group_id)
                continue
            for bundle in requested:
                if bundle.commit:
                    self._resources.commit(group_id, bundle.key.index)
        self._leases.bundles_changed(lacking=bool(refused))
        if request.release:
            self._leases.on_nodes_changed()  # what waits in them goes elsewhere, or fails
        named = {key.group_id for key in (*request.release, *request.commit)} | wanted.keys()
        return g.BundlesChanged(
            refused, self._resources.row.available, self._resources.shown(named)
        )

    def _end_in(self, sets: list[ResourceSet]) -> None:
        if sets:
            self._leases.end_in(sets)
            self._actors.end_in(sets)

    # --- for drivers and workers --------------------

    def create(self, process: Process, message: gm.CreateGroup) -> None:
        """Register a group; its process hears when it is created."""
        group_id = message.spec.group_id
        self._create[group_id] = message.spec
        self._asked.setdefault(group_id, []).append(process)
        self._pass_soon()

    def remove(self, _process: Process, message: gm.RemoveGroup) -> None:
        """Remove a group, after all that was asked before."""
        self._remove.append(message.group_id)
        self._pass_soon()

    async def watch(self, process: Process, message: gm.WatchGroup) -> None:
        """Tell a process when a group is created or removed, also by what was asked before."""
        await self.settled()
        await self._watch({message.group_id: [process]})

    @property
    def is_settled(self) -> bool:
        """Whether the GCS has heard of all that was asked so far."""
        return self._passed.is_set()

    async def settled(self) -> None:
        """Until the GCS has heard of all that was asked so far."""
        await self._passed.wait()

    def _pass_soon(self) -> None:
        self._passed.clear()
        if not self._passing:
            self._passing = True
            self._background.start(self._pass())

    async def _pass(self) -> None:
        while self._create or self._remove:
            create, self._create = self._create, {}
            remove, self._remove = self._remove, []
            asked, self._asked = self._asked, {}
            try:
                reply = await self._gcs.call(
                    "ChangeGroups", g.ChangeGroups(list(create.values()), remove), g.GroupStates
                )
            except Exception as error:  # an RpcError, or what else a call may run into
                logger.warning("The GCS did not hear of placement groups: %r", error)
                reply = g.GroupStates(
                    [gm.GroupState(group_id, "REMOVED", str(error)) for group_id in create]
                )
                if not isinstance(error, RefusedError):
                    # It may have made these before it fell silent, and nobody would have them.
                    self._remove[:0] = [*remove, *create]
                    self._passed.set()  # whoever asks the GCS now hears that it does not answer
                    await asyncio.sleep(_AGAIN_S)
            waiting: dict[bytes, list[Process]] = {}
            for state in reply.states:
                for process in asked.get(state.group_id, ()):
                    process.send(state)
                if state.state not in ("CREATED", "REMOVED"):
                    waiting[state.group_id] = asked.get(state.group_id, [])
            if waiting:
                self._background.start(self._watch(waiting))
        self._passing = False
        self._passed.set()

    async def _watch(self, waiting: dict[bytes, list[Process]]) -> None:
        while waiting:
            waiting = {k: p for k, p in waiting.items() if any(not one.closed for one in p)}
            if not waiting:
                return
            for state in await self._wait(list(waiting)):
                for process in waiting.pop(state.group_id, ()):
                    process.send(state)

    async def _wait(self, group_ids: list[bytes]) -> list[gm.GroupState]:
        try:
            reply = await self._gcs.call(
                "WaitGroups", g.WaitGroups(group_ids), g.GroupStates, _WAIT_S
            )
        except Exception as error:  # who waits for it waits on, whatever this call ran into
            logger.warning("The state of a placement group is not known: %r", error)
            await asyncio.sleep(_AGAIN_S)
            return []
        return reply.states

    # --- for what waits here --------------------

    def look_for(self, group_id: bytes) -> None:
        """Something waits for a group that no known node has."""
        if group_id not in self._looked_for:
            self._looked_for.add(group_id)
            self._background.start(self._look_for(group_id))

    async def _look_for(self, group_id: bytes) -> None:
        await self.settled()
        while True:
            states = await self._wait([group_id])
            if states:
                break
        if states[0].state == "CREATED":
            await self._refresh()
            await asyncio.sleep(0.01)  # a rescheduled group's rows may be on their way
        self._looked_for.discard(group_id)
        if states[0].state == "CREATED":
            self._leases.on_nodes_changed()
        else:
            self._leases.refuse_group(group_id)
