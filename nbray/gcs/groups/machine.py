"""What becomes of placement groups: events in, decisions out.

Pure: no clock, no connection, no store. Each event is a method; it is told the time and returns
what is to be done, in that order (`nbray.gcs.groups.decisions`).

A group that waits is looked at in its turn (`look`); where its bundles go is a pure function of
the rows (`scheduling.bundles`). Then an *attempt* is under way: the nodes are asked to reserve,
all at once. When all have answered, either none refused, and the place is stored as a promise, or
what was reserved is released. A group on one node may be used at once; of one on several, the
bundles are committed after the promise is durable, and when all are, it is created. So a machine
that is made of the stored rows goes on: it commits what was promised when the nodes report
(`node_back`), and what a node holds that nobody promised is released whenever it says so
(`reported`). A group has one attempt at a time, and none while a node still has to release
something of it. Groups do not wait for each other: a node that stands still delays those that
asked it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from msgspec import structs

from nbray.common.resources import subtract, total_of
from nbray.gcs.groups.decisions import (
    Commit,
    Created,
    Decided,
    Decision,
    Durable,
    EndActors,
    Forget,
    Keep,
    LookAgain,
    Release,
    Reserve,
    Warn,
)
from nbray.gcs.groups.life import GroupLife, State
from nbray.scheduling.bundles import place
from nbray.scheduling.explain import why_group_pending
from nbray.wire.gcs_messages import BundleKey, BundleRequest, GroupRow
from nbray.wire.group_messages import GroupState
from nbray.wire.records import GroupSpec, NodeInfo
from nbray.wire.scaling_messages import WaitingGroup

_REMOVED_KEPT = 1000
_RETRY_S = 0.2
_PATIENCE_S = 1.0


class Now(NamedTuple):
    """The time: ``steady`` is never set, ``wall`` is in seconds since the epoch."""

    steady: float
    wall: float


@dataclass
class _Attempt:
    """A place that is being taken; ``asked`` are the nodes that have not answered."""

    placed: dict[int, bytes]
    asked: set[bytes]
    failed: bool = False
    promised: bool = False

    def keys(self, group_id: bytes) -> dict[bytes, list[BundleKey]]:
        """The bundles, by node."""
        found: dict[bytes, list[BundleKey]] = {}
        for index, node_id in self.placed.items():
            found.setdefault(node_id, []).append(BundleKey(group_id, index))
        return found


@dataclass
class _Waiting:
    """What is remembered of a group that waits; times are steady."""

    since: float | None = None
    not_before: float = 0.0
    warned: bool = False


class Groups:
    """All placement groups, of the rows that were stored; see the head of this module."""

    def __init__(self, stored: Iterable[GroupLife]) -> None:
        self._groups: dict[bytes, GroupLife] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._attempts: dict[bytes, _Attempt] = {}
        self._releasing: set[tuple[bytes, BundleKey]] = set()
        self._removed: deque[bytes] = deque()
        for life in sorted(stored, key=lambda life: life.created):
            group_id = life.spec.group_id
            self._groups[group_id] = life
            if life.removed:
                self._removed.append(group_id)
                continue
            if life.spec.name:
                self._names[(life.spec.namespace, life.spec.name)] = group_id
            if life.waits:
                self._waiting[group_id] = _Waiting()
                if life.placed:
                    placed = dict(life.placed)
                    self._attempts[group_id] = _Attempt(placed, set(placed.values()), promised=True)

    # --- asked --------------------

    @property
    def any_waits(self) -> bool:
        """Whether a place is to be looked for."""
        return bool(self._waiting)

    def get(self, group_id: bytes) -> GroupLife | None:
        """A group, also if it is removed; those that were long ago are forgotten."""
        return self._groups.get(group_id)

    def find(self, name: str, namespace: str) -> bytes | None:
        """The group of a name."""
        return self._names.get((namespace, name))

    def row(self, life: GroupLife, rows: Sequence[NodeInfo]) -> GroupRow:
        """A group as it is shown, with why it waits."""
        stage, reasons = "FINISHED", []
        if life.removed:
            stage = "REMOVED"
        elif life.waits:
            bundles, strategy = life.bundles(), life.spec.strategy
            reasons = why_group_pending(list(bundles.values()), strategy, rows)
            ever = not life.attempts or (rows and place(bundles, strategy, rows, empty=True))
            stage = ("NO_RESOURCES" if life.attempts else "QUEUED") if ever else "INFEASIBLE"
        return GroupRow(
            life.spec, life.state, life.placed, life.created, reasons, life.attempts, stage,
            life.placed_s, life.chosen_s,
        )  # fmt: skip

    def without_place(self, before: float) -> list[WaitingGroup]:
        """Those for whose bundles there is no room, of those that were created before."""
        return [
            WaitingGroup(
                group_id, life.spec.strategy,
                [bundle for i, bundle in enumerate(life.spec.bundles) if i not in life.placed],
                list(life.placed.values()), life.spec.name,
            )
            for group_id in self._waiting
            if (life := self._groups[group_id]).created < before and group_id not in self._attempts
        ]  # fmt: skip

    def all(self) -> list[GroupLife]:
        """All groups, in the order in which they came."""
        return list(self._groups.values())

    def made_by(self, wanted: Callable[[GroupSpec], bool]) -> list[bytes]:
        """The groups that end with what made them, of those that are ``wanted``."""
        return [
            group_id for group_id, life in self._groups.items()
            if not life.removed and not life.spec.detached and wanted(life.spec)
        ]  # fmt: skip

    # --- registered and removed --------------------

    def register(
        self, spec: GroupSpec, is_over: bool, now: Now
    ) -> tuple[GroupState, list[Decision]]:
        """A group is asked for; a second time, only the answer is given.

        ``is_over``: what would have made it has ended.
        """
        group_id = spec.group_id
        known = self._groups.get(group_id)
        if known is not None:
            return GroupState(group_id, known.state), []
        if is_over:
            return GroupState(group_id, State.REMOVED, "Its job or its actor has ended."), []
        if spec.name:
            key = (spec.namespace, spec.name)
            if key in self._names:
                error = (
                    f"Failed to create placement group '{group_id.hex()}' because name "
                    f"'{spec.name}' already exists."
                )
                return GroupState(group_id, State.REMOVED, error), []
            self._names[key] = group_id
        life = self._groups[group_id] = GroupLife(spec, now.wall)
        self._waiting[group_id] = _Waiting()
        return GroupState(group_id, life.state), [Keep(life)]

    def remove(self, group_ids: Collection[bytes], cause: str, now: Now) -> list[Decision]:
        """Groups are to go; what they hold is released when that is durable."""
        decisions: list[Decision] = []
        held: dict[bytes, list[BundleKey]] = {}
        for group_id in group_ids:
            life = self._groups.get(group_id)
            if life is None or life.removed:
                continue
            self._waiting.pop(group_id, None)
            attempt = self._attempts.get(group_id)
            if attempt is not None and attempt.promised:
                del self._attempts[group_id]  # else its nodes have to answer first
            key = (life.spec.namespace, life.spec.name)
            if self._names.get(key) == group_id:
                del self._names[key]
            for index, node_id in life.placed.items():
                held.setdefault(node_id, []).append(BundleKey(group_id, index))
            life.remove(cause, now.wall)
            decisions += [Keep(life), Decided(group_id), EndActors(group_id)]
            self._removed.append(group_id)
            if len(self._removed) > _REMOVED_KEPT:
                oldest = self._removed.popleft()
                self._groups.pop(oldest, None)
                decisions.append(Forget(oldest))
        return [*decisions, Durable(), *self._release(held)] if decisions else []

    # --- placed --------------------

    def look(self, rows: Sequence[NodeInfo], now: Now) -> list[Decision]:
        """Take places for the groups that wait, in their order.

        ``rows`` are of the nodes that may be asked. They are charged with what is chosen.
        """
        decisions: list[Decision] = []
        bundles: dict[bytes, list[BundleRequest]] = {}
        patient: dict[bytes, list[bytes]] = {}
        soon = [_when_tasks_make_way(row) for row in rows]
        busy = {key.group_id for _, key in self._releasing}
        for group_id, waiting in self._waiting.items():
            if group_id in self._attempts or group_id in busy or now.steady < waiting.not_before:
                continue
            life = self._groups[group_id]
            life.attempts += 1
            if waiting.since is None:
                waiting.since = now.steady
            placed = _choose(life, rows)
            patience = placed is None and now.steady - waiting.since > _PATIENCE_S
            if patience:
                placed = _choose(life, soon)
            if placed is None:
                decisions += self._warn_if_impossible(life, waiting, rows)
                continue
            self._attempts[group_id] = _Attempt(placed, set(placed.values()))
            alone = len(set(placed.values())) == 1
            for index, node_id in placed.items():
                request = BundleRequest(
                    BundleKey(group_id, index), life.spec.bundles[index].resources, alone
                )
                bundles.setdefault(node_id, []).append(request)
            if patience:
                for node_id in set(placed.values()):
                    patient.setdefault(node_id, []).append(group_id)
        decisions += [
            Reserve(node_id, tuple(some), tuple(patient.get(node_id, ())))
            for node_id, some in bundles.items()
        ]
        return decisions

    def _warn_if_impossible(
        self, life: GroupLife, waiting: _Waiting, rows: Sequence[NodeInfo]
    ) -> list[Decision]:
        spec = life.spec
        others = life.placed.values()
        if (
            waiting.warned
            or not rows
            or place(life.missing(), spec.strategy, rows, elsewhere=others, empty=True)
        ):
            return []
        waiting.warned = True
        reasons = why_group_pending(list(life.bundles().values()), spec.strategy, rows)
        text = f"Placement group {spec.group_id.hex()[:8]}: {' '.join(reasons)}"
        return [Warn(spec.job, text, spec.origin)]

    def answered(
        self, asked: Reserve, refused: Collection[bytes] | None, now: Now
    ) -> list[Decision]:
        """A node said which groups it has no room for; None: nobody knows what it did."""
        done = []
        for group_id in dict.fromkeys(request.key.group_id for request in asked.bundles):
            attempt = self._attempts.get(group_id)
            if attempt is None or attempt.promised or asked.node_id not in attempt.asked:
                continue  # the node died before its answer came
            attempt.failed |= refused is None or group_id in refused
            attempt.asked.discard(asked.node_id)
            if not attempt.asked:
                done.append(group_id)
        return self._reserved(done, now)

    def _reserved(self, group_ids: Iterable[bytes], now: Now) -> list[Decision]:
        """All nodes of these have answered: promise the place, or give it back."""
        made: list[bytes] = []
        promised: list[Decision] = []
        commit: dict[bytes, list[BundleKey]] = {}
        back: dict[bytes, list[BundleKey]] = {}
        again: list[Decision] = []
        for group_id in group_ids:
            attempt = self._attempts[group_id]
            waiting = self._waiting.get(group_id)
            keys = attempt.keys(group_id)
            if waiting is None or attempt.failed:
                del self._attempts[group_id]
                for node_id, some in keys.items():
                    back.setdefault(node_id, []).extend(some)
                if waiting is not None:
                    waiting.not_before = now.steady + _RETRY_S
                    again = [LookAgain(_RETRY_S)]
                continue
            life = self._groups[group_id]
            life.placed.update(attempt.placed)
            made.append(group_id)
            if len(keys) > 1:
                promised.append(Keep(life))
                attempt.promised, attempt.asked = True, set(keys)
                for node_id, some in keys.items():
                    commit.setdefault(node_id, []).extend(some)
        decisions = self._release(back) + again + promised + self._settle(made, now)
        if commit:
            decisions.append(Durable())
            decisions += [Commit(node_id, tuple(keys)) for node_id, keys in commit.items()]
        return decisions

    def committed(self, asked: Commit, now: Now) -> list[Decision]:
        """A node lets bundles be used, or is dead."""
        group_ids = dict.fromkeys(key.group_id for key in asked.keys)
        return self._settle(self._heard(group_ids, asked.node_id), now)

    def _heard(self, group_ids: Iterable[bytes], node_id: bytes) -> list[bytes]:
        """A node has done what was promised of these groups; those of which all have."""
        done = []
        for group_id in group_ids:
            attempt = self._attempts.get(group_id)
            if attempt is not None and attempt.promised:
                attempt.asked.discard(node_id)
                done.append(group_id)
        return done

    def _settle(self, group_ids: Iterable[bytes], now: Now) -> list[Decision]:
        """Attempts whose nodes have all done their part end; what has all bundles is created."""
        decisions: list[Decision] = []
        created = False
        for group_id in group_ids:
            attempt = self._attempts[group_id]
            if attempt.promised and attempt.asked:
                continue
            del self._attempts[group_id]
            life = self._groups[group_id]
            if life.missing():
                decisions += [Keep(life), LookAgain(0.0)]
                continue
            waiting = self._waiting.pop(group_id)
            if waiting.since is not None and not life.placed_s:
                life.chosen_s = now.steady - waiting.since
                life.placed_s = max(life.chosen_s, now.wall - life.created)
            life.create(now.wall)
            decisions += [Keep(life), Decided(group_id)]
            created = True
        return [*decisions, Durable(), Created()] if created else decisions

    def _release(self, held: dict[bytes, list[BundleKey]]) -> list[Decision]:
        for node_id, keys in held.items():
            self._releasing.update((node_id, key) for key in keys)
        return [Release(node_id, tuple(keys)) for node_id, keys in held.items()]

    def released(self, asked: Release) -> list[Decision]:
        """A node gave bundles back, or is dead."""
        self._releasing.difference_update((asked.node_id, key) for key in asked.keys)
        return [LookAgain(0.0)]

    # --- nodes --------------------

    def node_died(self, node_id: bytes, now: Now) -> list[Decision]:
        """What was on a node is placed anew; who asked it will not be answered."""
        decisions: list[Decision] = []
        for group_id, life in self._groups.items():
            if life.lose(node_id, now.wall):
                self._waiting.setdefault(group_id, _Waiting())
                decisions.append(Keep(life))
        promised = self._heard(self._attempts, node_id)
        failed = []
        for group_id, attempt in self._attempts.items():
            if not attempt.promised and node_id in attempt.placed.values():
                attempt.failed = True
                attempt.asked.discard(node_id)
                if not attempt.asked:
                    failed.append(group_id)
        decisions += self._settle(promised, now)
        return [*decisions, *self._reserved(failed, now), LookAgain(0.0)]

    def node_back(self, node: NodeInfo) -> list[Decision]:
        """A node reports for the first time after a restart: what was promised is committed."""
        keys = [
            BundleKey(group_id, index)
            for group_id, attempt in self._attempts.items()
            if attempt.promised
            for index, where in attempt.placed.items()
            if where == node.node_id
        ]
        return [Commit(node.node_id, tuple(keys))] if keys else []

    def reported(self, node: NodeInfo) -> list[Decision]:
        """A node says what it holds: what nobody promised is released.

        So are bundles of groups whose removal it was not told of, and those that were reserved by
        a request that nobody waited for any more.
        """
        strange = []
        for bundle in node.bundles:
            key = BundleKey(bundle.group_id, bundle.index)
            life, attempt = self._groups.get(key.group_id), self._attempts.get(key.group_id)
            promised = (
                life is not None and not life.removed and life.placed.get(key.index) == node.node_id
            )
            tried = attempt is not None and attempt.placed.get(key.index) == node.node_id
            if not promised and not tried and (node.node_id, key) not in self._releasing:
                strange.append(key)
        return self._release({node.node_id: strange}) if strange else []


def _choose(life: GroupLife, rows: Sequence[NodeInfo]) -> dict[int, bytes] | None:
    """The nodes of bundles, which are charged for them until they report anew."""
    strategy, missing = life.spec.strategy, life.missing()
    if strategy == "STRICT_PACK" and life.placed:
        rows = [row for row in rows if row.node_id in life.placed.values()]
    placed = place(
        missing, strategy, rows, elsewhere=life.placed.values(), soft_target=life.spec.soft_target
    )
    if placed is not None:
        available = {row.node_id: row.available for row in rows}
        for index, node_id in placed.items():
            subtract(available[node_id], missing[index].resources)
    return placed


def _when_tasks_make_way(row: NodeInfo) -> NodeInfo:
    """A row as it will be when the tasks have given back what they return soon."""
    return structs.replace(row, available=total_of([row.available, row.returning]))
