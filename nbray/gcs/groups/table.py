"""All placement groups of the cluster: placed, reserved in two phases, rescheduled, removed.

One task, `_run`, takes the groups that are not placed, in their order. Where their bundles go is
a pure function (`scheduling.bundles`). A round asks each node once for all that it is to reserve.
A group on one node may be used at once; one on several is committed when all have reserved, and
what was reserved for a group that did not succeed is released.

What is stored of a group's place is a promise: it is written after all nodes have reserved, and
before anybody is told. So a GCS that comes back releases what nodes hold without such a row, and
commits the rest (`reconcile`); nodes that it has not heard of since are given nothing new.
Releases are repeated until the node answers or is dead.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from nbray.common.background import Background
from nbray.common.resources import subtract, total_of
from nbray.gcs.storage import StorageError, Store, Table
from nbray.scheduling.bundles import Bundle, place
from nbray.scheduling.explain import why_group_pending
from nbray.wire.gcs_messages import (
    BundleKey,
    BundleRequest,
    BundlesChanged,
    ChangeBundles,
    ChangeGroups,
    GroupLife,
    Groups,
    GroupStates,
    NamedGroup,
    WaitGroups,
)
from nbray.wire.grpc_service import GrpcClient, Handler, RpcError
from nbray.wire.messages import GroupState
from nbray.wire.records import GroupSpec, JobConfig, NodeInfo

logger = logging.getLogger(__name__)

_REMOVED_KEPT = 1000
_LONGEST_WAIT_S = 1.0
_RETRY_S = 0.2
_PATIENCE_S = 1.0
_KNOWN_WITHIN_S = 5.0
_DECIDED = ("CREATED", "REMOVED")


class GroupTable:
    """All placement groups.

    ``nodes`` gives the rows of nodes that may be asked, ``raylet`` the client of one,
    ``job_ended`` whether a job is over; ``warn`` shows a driver why something waits;
    ``end_actors`` ends the actors of a group, ``actor_may_live`` says whether one may live.
    """

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
        store: Store,
        job_ended: Callable[[bytes], bool],
        warn: Callable[[JobConfig, str], Coroutine[Any, Any, None]],
    ) -> None:
        self._nodes = nodes
        self._raylet = raylet
        self._store = store
        self._job_ended = job_ended
        self._warn = warn
        self._table = Table(store, "placement_groups", GroupLife)
        self._groups = dict(sorted(self._table.all().items(), key=lambda item: item[1].created))
        self._names = {
            (life.spec.namespace, life.spec.name): group_id
            for group_id, life in self._groups.items()
            if life.spec.name and life.state != "REMOVED"
        }
        self._removed = deque(i for i, life in self._groups.items() if life.state == "REMOVED")
        self._unplaced = [i for i, life in self._groups.items() if life.state not in _DECIDED]
        self._warned: set[bytes] = set()
        self._waits: dict[bytes, float] = {}
        self._releasing: set[BundleKey] = set()
        self._kicked = asyncio.Event()
        self._changed: dict[bytes, asyncio.Event] = {}
        self._background = Background()
        self.end_actors: Callable[[bytes], Awaitable[None]]
        self.actor_may_live: Callable[[bytes], bool]
        self.on_created: Callable[[], None] = lambda: None

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "ChangeGroups": (ChangeGroups, self.change),
            "WaitGroups": (WaitGroups, self.wait),
            "FindGroups": (NamedGroup, self.find),
        }

    def resume(self) -> None:
        """Begin to place groups."""
        self._background.start(self._run())
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Resources may have become free."""
        if self._unplaced:
            self._kicked.set()

    # --- asked --------------------

    async def change(self, request: ChangeGroups) -> GroupStates:
        """Register and remove groups; a second time, only the answer is given.

        A name is free for a new group as soon as the one that had it was to be removed.
        """
        new = {spec.group_id for spec in request.create}
        await self._remove([group_id for group_id in request.remove if group_id not in new])
        states = [self._register(spec) for spec in request.create]
        await self._remove([group_id for group_id in request.remove if group_id in new])
        if request.create:
            self._kicked.set()
            await self._store.durable()
        return GroupStates(states)

    def _register(self, spec: GroupSpec) -> GroupState:
        known = self._groups.get(spec.group_id)
        if known is not None:
            return GroupState(spec.group_id, known.state)
        if self._is_over(spec):
            return GroupState(spec.group_id, "REMOVED", "Its job or its actor has ended.")
        if spec.name:
            key = (spec.namespace, spec.name)
            if key in self._names:
                return GroupState(
                    spec.group_id, "REMOVED",
                    f"Failed to create placement group '{spec.group_id.hex()}' because name "
                    f"'{spec.name}' already exists.",
                )  # fmt: skip
            self._names[key] = spec.group_id
        life = self._groups[spec.group_id] = GroupLife(spec, created=time.time())
        self._table.put(spec.group_id, life)
        self._unplaced.append(spec.group_id)
        return GroupState(spec.group_id, life.state)

    def _is_over(self, spec: GroupSpec) -> bool:
        if spec.detached:
            return False
        if spec.creator:
            return not self.actor_may_live(spec.creator)
        return self._job_ended(spec.job.job_id)

    async def wait(self, request: WaitGroups) -> GroupStates:
        """The states of those that are created or removed, once any is."""
        deadline = time.monotonic() + _KNOWN_WITHIN_S
        while True:
            now = time.monotonic()
            states = []
            for group_id in request.group_ids:
                life = self._groups.get(group_id)
                if life is not None and life.state in _DECIDED:
                    states.append(GroupState(group_id, life.state))
                elif life is None and now > deadline:
                    states.append(GroupState(group_id, "REMOVED"))
            if states:
                await self._store.durable()
                return GroupStates(states)
            unknown = any(group_id not in self._groups for group_id in request.group_ids)
            events = [
                self._changed.setdefault(group_id, asyncio.Event())
                for group_id in request.group_ids
            ]
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            try:
                await asyncio.wait(
                    waits, return_when=asyncio.FIRST_COMPLETED, timeout=0.1 if unknown else None
                )
            finally:
                for wait in waits:
                    wait.cancel()

    async def find(self, request: NamedGroup) -> Groups:
        """The groups of an id or name; all, without either."""
        await self._store.durable()
        if request.name:
            group_id = self._names.get((request.namespace, request.name))
            return Groups([self._row(group_id)] if group_id is not None else [])
        if request.group_id:
            known = request.group_id in self._groups
            return Groups([self._row(request.group_id)] if known else [])
        return Groups([self._row(group_id) for group_id in self._groups])

    def _row(self, group_id: bytes) -> GroupLife:
        life = self._groups[group_id]
        if life.state not in _DECIDED:
            bundles, strategy = _bundles(life.spec), life.spec.strategy
            rows = self._nodes()
            life.reasons = why_group_pending(bundles, strategy, rows)
            if life.attempts:
                ever = rows and place(dict(enumerate(bundles)), strategy, rows, empty=True)
                life.stage = "NO_RESOURCES" if ever else "INFEASIBLE"
        return life

    def is_removed(self, group_id: bytes) -> bool | None:
        """Whether nothing can run in the group any more; None if it is not known."""
        life = self._groups.get(group_id)
        return life.state == "REMOVED" if life is not None else None

    def _set(self, group_id: bytes, state: str) -> None:
        life = self._groups[group_id]
        life.state, life.reasons = state, []
        life.stage = {"CREATED": "FINISHED", "REMOVED": "REMOVED"}.get(state, "QUEUED")
        self._table.put(group_id, life)
        event = self._changed.pop(group_id, None)
        if event is not None:
            event.set()

    # --- placed --------------------

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_LONGEST_WAIT_S):
                    await self._kicked.wait()
            except TimeoutError:
                if not self._unplaced:
                    continue
            self._kicked.clear()
            try:
                await self._round()
            except StorageError:
                return  # the GCS leaves
            except Exception:  # the next round may do without what raised it
                logger.exception("Placement groups were not placed")
                await asyncio.sleep(_LONGEST_WAIT_S)

    async def _round(self) -> None:
        """Place what can be placed now."""
        chosen: dict[bytes, dict[int, bytes]] = {}
        patient: list[bytes] = []
        soon = [_when_tasks_make_way(row) for row in self._nodes()]
        now = time.monotonic()
        busy = {key.group_id for key in self._releasing}
        for group_id in [one for one in self._unplaced if one not in busy]:
            life = self._groups[group_id]
            missing = {
                index: bundle
                for index, bundle in enumerate(_bundles(life.spec))
                if index not in life.placed
            }
            placed = self._choose(life, missing, self._nodes())
            life.attempts += 1
            waited = now - self._waits.setdefault(group_id, now)
            if placed is None and waited > _PATIENCE_S:
                placed = self._choose(life, missing, soon)
                patient.append(group_id)
            if placed is None:
                await self._warn_if_impossible(life, missing)
                continue
            chosen[group_id] = placed
        if chosen:
            await self._reserve(chosen, patient)

    def _choose(
        self, life: GroupLife, missing: dict[int, Bundle], rows: list[NodeInfo]
    ) -> dict[int, bytes] | None:
        """The nodes of bundles, which are charged for them until they report anew."""
        strategy, target = life.spec.strategy, life.spec.soft_target
        if strategy == "STRICT_PACK" and life.placed:
            rows = [row for row in rows if row.node_id in life.placed.values()]
        placed = place(missing, strategy, rows, elsewhere=life.placed.values(), soft_target=target)
        if placed is not None:
            available = {row.node_id: row.available for row in rows}
            for index, node_id in placed.items():
                subtract(available[node_id], missing[index].resources)
        return placed

    async def _warn_if_impossible(self, life: GroupLife, missing: dict[int, Bundle]) -> None:
        spec = life.spec
        rows = self._nodes()
        if (
            spec.group_id in self._warned
            or not rows
            or place(missing, spec.strategy, rows, elsewhere=life.placed.values(), empty=True)
        ):
            return
        self._warned.add(spec.group_id)
        text = " ".join(why_group_pending(_bundles(spec), spec.strategy, rows))
        text = f"Placement group {spec.group_id.hex()[:8]}: {text}"
        self._background.start(self._warn(spec.job, text))

    async def _reserve(self, chosen: dict[bytes, dict[int, bytes]], patient: list[bytes]) -> None:
        """Two phases: reserve everywhere, store what succeeded, commit what was not yet."""
        wishes: dict[bytes, list[BundleRequest]] = {}
        for group_id, placed in chosen.items():
            alone = len(set(placed.values())) == 1
            for index, node_id in placed.items():
                resources = self._groups[group_id].spec.bundles[index].resources
                wish = BundleRequest(BundleKey(group_id, index), resources, alone)
                wishes.setdefault(node_id, []).append(wish)
        answers = await asyncio.gather(
            *(
                self._ask(node_id, ChangeBundles(reserve=some, patient=patient))
                for node_id, some in wishes.items()
            )
        )
        failed: set[bytes] = set()
        for some, answer in zip(wishes.values(), answers, strict=True):
            if answer is None:
                failed.update(wish.key.group_id for wish in some)
            else:
                failed.update(answer.refused)
        alive = {row.node_id for row in self._nodes()}
        commit: dict[bytes, list[BundleKey]] = {}
        release: dict[bytes, list[BundleKey]] = {}
        made: list[bytes] = []
        for group_id, placed in chosen.items():
            life = self._groups.get(group_id)
            wanted = life is not None and life.state in ("PENDING", "RESCHEDULING")
            good = wanted and group_id not in failed and alive.issuperset(placed.values())
            alone = len(set(placed.values())) == 1
            for index, node_id in placed.items():
                key = BundleKey(group_id, index)
                if not good:
                    release.setdefault(node_id, []).append(key)
                elif not alone:
                    commit.setdefault(node_id, []).append(key)
            if good:
                assert life is not None
                life.placed.update(placed)
                self._table.put(group_id, life)
                made.append(group_id)
        for node_id, keys in release.items():
            self._release_soon(node_id, keys)
        if commit:
            await self._store.durable()
            await asyncio.gather(*(self._commit(node_id, keys) for node_id, keys in commit.items()))
        for group_id in made:
            self._settle(group_id)
        if made:
            await self._store.durable()
            self.on_created()
        if len(made) < len(chosen):
            await asyncio.sleep(_RETRY_S)
            self._kicked.set()

    def _settle(self, group_id: bytes) -> None:
        """A group that waited is created once all its bundles have a place."""
        life = self._groups[group_id]
        if len(life.placed) == len(life.spec.bundles) and group_id in self._unplaced:
            self._unplaced.remove(group_id)
            self._warned.discard(group_id)
            began = self._waits.pop(group_id, None)
            if began is not None and not life.placed_s:
                life.chosen_s = time.monotonic() - began
                life.placed_s = max(life.chosen_s, time.time() - life.created)
            self._set(group_id, "CREATED")

    async def _ask(self, node_id: bytes, request: ChangeBundles) -> BundlesChanged | None:
        """Change a node's bundles; its row is brought up to date by the answer."""
        node = next((row for row in self._nodes() if row.node_id == node_id), None)
        if node is None:
            return None
        try:
            answer = await self._raylet(node).call("ChangeBundles", request, BundlesChanged)
        except RpcError as error:
            logger.warning("Node %s did not change bundles: %s", node_id.hex()[:8], error)
            return None
        for row in self._nodes():
            if row.node_id == node_id:
                row.available, row.bundles = answer.available, answer.bundles
        return answer

    async def _commit(self, node_id: bytes, keys: list[BundleKey]) -> None:
        while self._is_alive(node_id):
            if await self._ask(node_id, ChangeBundles(commit=keys)) is not None:
                return
            await asyncio.sleep(_RETRY_S)

    def _release_soon(self, node_id: bytes, keys: list[BundleKey]) -> None:
        """Release bundles; until that is done, their groups are not placed anew."""
        self._releasing.update(keys)
        self._background.start(self._release(node_id, keys))

    async def _release(self, node_id: bytes, keys: list[BundleKey]) -> None:
        while self._is_alive(node_id):
            if await self._ask(node_id, ChangeBundles(release=keys)) is not None:
                break
            await asyncio.sleep(_RETRY_S)
        self._releasing.difference_update(keys)
        self.nodes_changed()

    def _is_alive(self, node_id: bytes) -> bool:
        return any(row.node_id == node_id for row in self._nodes())

    # --- removed and lost --------------------

    async def _remove(self, group_ids: list[bytes]) -> None:
        release: dict[bytes, list[BundleKey]] = {}
        removed = []
        for group_id in group_ids:
            life = self._groups.get(group_id)
            if life is None or life.state == "REMOVED":
                continue
            removed.append(group_id)
            if group_id in self._unplaced:
                self._unplaced.remove(group_id)
            self._warned.discard(group_id)
            self._waits.pop(group_id, None)
            key = (life.spec.namespace, life.spec.name)
            if self._names.get(key) == group_id:
                del self._names[key]
            for index, node_id in life.placed.items():
                release.setdefault(node_id, []).append(BundleKey(group_id, index))
            self._set(group_id, "REMOVED")
            self._removed.append(group_id)
            if len(self._removed) > _REMOVED_KEPT:
                oldest = self._removed.popleft()
                self._groups.pop(oldest, None)
                self._table.delete(oldest)
        if not removed:
            return
        for group_id in removed:
            await self.end_actors(group_id)
        await self._store.durable()
        for node_id, keys in release.items():
            self._release_soon(node_id, keys)

    async def finish_job(self, job_id: bytes) -> None:
        """A driver left: the groups that it and its tasks made end, but for the detached."""
        await self._remove([
            group_id for group_id, life in self._groups.items()
            if life.spec.job.job_id == job_id and not life.spec.detached and not life.spec.creator
        ])  # fmt: skip

    def actor_died(self, actor_id: bytes, restarts: bool = False) -> None:
        """An actor lost its process: the groups that it made end, but for the detached.

        Of one that ``restarts``, as Ray's do: only once its job has ended.
        """
        made = [
            group_id for group_id, life in self._groups.items()
            if life.spec.creator == actor_id and not life.spec.detached
            and not (restarts and not self._job_ended(life.spec.job.job_id))
        ]  # fmt: skip
        if made:
            self._background.start(self._remove(made))

    def node_died(self, node_id: bytes) -> None:
        """The bundles that were there are placed anew."""
        for group_id, life in self._groups.items():
            lost = [index for index, where in life.placed.items() if where == node_id]
            if not lost or life.state == "REMOVED":
                continue
            for index in lost:
                del life.placed[index]
            if group_id not in self._unplaced:
                self._unplaced.append(group_id)
            self._set(group_id, "RESCHEDULING")
        self.nodes_changed()

    async def reconcile(self, node: NodeInfo) -> None:
        """Compare what a node holds with the table, once after a restart."""
        release, commit = [], []
        for bundle in node.bundles:
            key = BundleKey(bundle.group_id, bundle.index)
            life = self._groups.get(bundle.group_id)
            # A node that had not reported yet was told nothing of a removal.
            if (
                life is None
                or life.state == "REMOVED"
                or life.placed.get(bundle.index) != node.node_id
            ):
                release.append(key)
            elif not bundle.committed:
                commit.append(key)
        if release:
            self._release_soon(node.node_id, release)
        if commit:
            self._background.start(self._commit(node.node_id, commit))
        for group_id in list(self._unplaced):
            self._settle(group_id)
        self.nodes_changed()


def _when_tasks_make_way(row: NodeInfo) -> NodeInfo:
    """A row as it will be when the tasks have given back what they return soon."""
    return msgspec.structs.replace(row, available=total_of([row.available, row.returning]))


def _bundles(spec: GroupSpec) -> list[Bundle]:
    return [Bundle(bundle.resources, bundle.selector) for bundle in spec.bundles]
