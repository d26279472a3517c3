"""Who gets the node's resources, and who is sent to another node: pure decisions.

A `Scheduler` is told what happens, with the time in seconds as ``now``, and returns what follows as
decisions (`pending`), which `leases` carries out. It knows no clock, process or connection.

Requests are served first come first served per shape; one may pass an earlier one of another
shape, until that is *overdue*: then what it needs and does not find is kept for it as it becomes
free, and so is what a placement group needs that has waited for long. Where a request goes at first
is the policy's choice (`nbray.scheduling.policy`). One that waits here moves when the policy finds
a node where it fits now, or when it could never run here.

Whoever has a worker for which others wait is told so once, with the grant or later: it comes back
as soon as it is idle. The oldest are asked for after a while also if there is work for them, so
that nobody has one for ever. What waits for something that no lease has (an actor has it) is no
reason to give anything back.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from nbray.common.resources import fits, total_of
from nbray.raylet.workers.lease import LeaseLife
from nbray.raylet.workers.node_resources import NodeResources
from nbray.raylet.workers.pending import (
    Decision,
    Granted,
    Infeasible,
    Moved,
    PendingRequest,
    Reclaim,
    UnknownNode,
)
from nbray.scheduling.policy import Choice, Demand, Verdict, charge, choose
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import NodeInfo
from nbray.wire.state_messages import WaitingShape
from nbray.wire.strategies import InGroup, OnNode, Shape, Spread

_OVERDUE_S = 1.0
_LONG_TASK_S = 2.0
GROUP_GONE = Cause(CauseKind.GROUP_REMOVED, "its placement group was removed")


class Nodes(Protocol):
    """The other nodes, as far as this one has heard of them."""

    def others(self) -> list[NodeInfo]: ...

    def knows(self, node_id: bytes) -> bool: ...


class Scheduler:
    """The requests that wait for resources of one node, and the leases that have some."""

    def __init__(self, resources: NodeResources, generator: random.Random) -> None:
        self.leases: dict[int, LeaseLife] = {}
        self._resources = resources
        self._row = resources.row
        self._generator = generator
        self._waiting: deque[PendingRequest] = deque()
        self._looked_up: set[PendingRequest] = set()
        self._aside: dict[object, list[PendingRequest]] = {}
        self._any_unhelped = False
        self._turn = 0

    # --- requests come and go --------------------

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def submit(
        self, request: PendingRequest, nodes: Nodes, now: float, placed: bool = False
    ) -> list[Decision]:
        """A new request; ``placed``: another raylet or the GCS chose this node."""
        decisions: list[Decision] = []
        strays = isinstance(request.demand.strategy, InGroup) and not self._resources.serves(
            request.demand
        )
        leaves = not self._row.takes_work
        if request.on_moved is not None and (strays or leaves or not placed):
            if isinstance(request.demand.strategy, Spread):
                self._turn += 1
            choice = self._choose(request, nodes.others())
            if _is_news(request, choice, nodes):
                request.looked_up = True
                self._looked_up.add(request)
                return [UnknownNode(request)]
            if choice.node is not None or choice.verdict is Verdict.UNSCHEDULABLE:
                return [Moved(request, choice)]
            if choice.verdict is Verdict.INFEASIBLE:
                decisions.append(Infeasible(request))
        self.enqueue(request)
        if now - request.since > _OVERDUE_S:  # an actor that waited elsewhere
            self._find_overdue(now)
        decisions += self.grant()
        if self._waiting and self._waiting[-1] is request:
            decisions += self.reclaim([x for x in self._helpful(request) if not x.wanted])
        return decisions

    def looked_up(self, request: PendingRequest, nodes: Nodes, now: float) -> list[Decision]:
        """The GCS was asked for the node of a request, which may not be wanted any more."""
        if request not in self._looked_up:
            return []
        self._looked_up.discard(request)
        return self.submit(request, nodes, now)

    def enqueue(self, request: PendingRequest) -> None:
        """Let a request wait here."""
        self._waiting.append(request)

    def withdraw(self, request: PendingRequest) -> bool:
        """Take a request back; False when it is granted or moved already."""
        if request in self._looked_up:
            self._looked_up.discard(request)
        elif request in self._waiting:
            self._waiting.remove(request)
        elif request in self._aside.get(request.asker, ()):
            self._aside[request.asker].remove(request)
        else:
            return False
        return True

    def set_aside(self, asker: object) -> None:
        """Who asked for these does not answer: nothing is granted to it, or kept for it."""
        waiting, self._waiting = self._waiting, deque()
        aside = self._aside.setdefault(asker, [])
        for request in waiting:
            (aside if request.asker is asker else self._waiting).append(request)

    def bring_back(self, asker: object) -> list[Granted]:
        """It answers again, or has gone."""
        self._waiting.extend(self._aside.pop(asker, ()))
        return self.grant()

    # --- something is free, or has become so elsewhere --------------------

    def grant(self) -> list[Granted]:
        """Serve what can be served now."""
        granted: list[Granted] = []
        passed: list[Demand] = []
        kept = self._resources.kept()
        for request in list(self._waiting):
            demand = request.demand
            if demand in passed:
                continue
            taken = self._resources.take(demand, kept)
            if taken is None:
                passed.append(demand)
                if request.overdue:
                    kept = total_of([kept, demand.resources])
            else:
                self._waiting.remove(request)
                granted.append(Granted(request, taken))
        return granted

    def move(self, others: Sequence[NodeInfo]) -> list[Moved | Infeasible]:
        """Send waiting requests to nodes that can serve them; fail those that none may serve.

        What they need is subtracted from the rows, so that a burst does not go to one node.
        """
        decisions: list[Moved | Infeasible] = []
        for request in [r for r in self._waiting if r.on_moved is not None]:
            choice = self._choose(request, others)
            if choice.node is not None or choice.verdict is Verdict.UNSCHEDULABLE:
                self._waiting.remove(request)
                decisions.append(Moved(request, choice))
            elif choice.verdict is Verdict.INFEASIBLE:
                decisions.append(Infeasible(request))
        return decisions

    def refuse_group(self, group_id: bytes) -> list[Moved]:
        """A placement group was removed: what waits for it fails."""
        over = [
            request
            for request in self._waiting
            if isinstance(request.demand.strategy, InGroup)
            and request.demand.strategy.group_id == group_id
            and request.on_moved is not None
        ]
        for request in over:
            self._waiting.remove(request)
        return [Moved(r, Choice(Verdict.UNSCHEDULABLE, None, GROUP_GONE)) for r in over]

    # --- who has something makes way --------------------

    def reclaim(self, leases: list[LeaseLife]) -> list[Reclaim]:
        """Ask for these leases as soon as they are idle, since somebody waits for resources."""
        for lease in leases:
            lease.wanted = True
        return [Reclaim(holder, []) for holder in {lease.holder for lease in leases}]

    def help(self) -> list[Reclaim]:
        """Ask for what requests wait for of which a part was neither free nor held when they came.

        To be called when something has become free, or a lease is held.
        """
        if not self._any_unhelped:
            return []
        self._any_unhelped = False
        seen: list[tuple[Demand, object, object]] = []
        leases: dict[LeaseLife, None] = {}
        for request in self._waiting:
            kind = request.demand, request.asker, request.queue
            if request.unhelped and kind not in seen:
                seen.append(kind)
                request.unhelped = False
                leases |= dict.fromkeys(x for x in self._helpful(request) if not x.wanted)
        return self.reclaim(list(leases))

    def wanted(self, lease: LeaseLife) -> bool:
        """Whether a new lease has what others wait for."""
        seen: list[tuple[Demand, bool]] = []  # ten thousand may wait for the same
        for request in self._waiting:
            kind = request.demand, request.overdue
            if not _competes(request, lease) or kind in seen:
                continue
            if lease in self._helpful(request):
                return True
            seen.append(kind)
        return False

    def _helpful(self, request: PendingRequest) -> list[LeaseLife]:
        """The leases of others that have what a request lacks; none if all together do not do."""
        demand, leases = request.demand, self.leases.values()
        if isinstance(demand.strategy, InGroup):
            group_id = demand.strategy.group_id
            return [x for x in leases if _is_of_group(x, group_id) and _competes(request, x)]
        if not self._resources.serves(demand):
            return []
        node = self._resources.node
        overdue = (r.demand.resources for r in self._waiting if r.overdue and r is not request)
        kept = total_of([self._resources.kept(), *overdue])
        free = node.available
        lacked = {n for n, amount in demand.resources.items() if amount + kept.get(n, 0) > free[n]}
        held = {x: x.taken.in_use() for x in leases if x.taken and x.taken.source is node}
        if not fits(demand.resources, total_of([free, *held.values()])):
            request.unhelped = self._any_unhelped = True
            return []
        return [
            x for x, taken in held.items() if not lacked.isdisjoint(taken) and _competes(request, x)
        ]

    def share(self, now: float, after_s: float) -> list[Decision]:
        """Ask for the oldest leases while others wait.

        Both must have been so for ``after_s`` seconds: the lease held, and the request waiting.
        """
        decisions: list[Decision] = []
        if self._resources.forget_room(now):
            decisions += self.grant()
        waiting = [
            request
            for request in self._waiting
            if now - request.since > after_s and self._resources.serves(request.demand)
        ]
        self._find_overdue(now)
        lacking = self.lacking()
        wanted: dict[object, Reclaim] = {}
        for lease in self.leases.values():  # in the order of their grants
            if not (waiting or lacking) or now - lease.since < after_s:
                break
            assert lease.taken is not None
            asked = any(name in lacking for name in lease.taken.in_use())
            for name, amount in lease.taken.in_use().items():
                if name in lacking:
                    lacking[name] -= amount
                    if lacking[name] <= 0:
                        del lacking[name]
            for request in waiting:
                if _competes(request, lease):
                    waiting.remove(request)
                    self._waiting.remove(request)
                    self._waiting.appendleft(request)  # it is its turn
                    asked = True
                    break
            if asked:
                lease.asked = lease.asked or now
                wanted.setdefault(lease.holder, Reclaim(lease.holder, [])).lease_ids.append(
                    lease.lease_id
                )
        return [*decisions, *wanted.values()]

    def lacking(self) -> dict[str, int]:
        """What is missing on this node for all that room is kept for."""
        wanted = [self._resources.kept()]
        wanted += [dict(r.demand.resources) for r in self._waiting if r.overdue]
        free = self._resources.node.available
        return {
            name: amount - free.get(name, 0)
            for name, amount in total_of(wanted).items()
            if amount > free.get(name, 0)
        }

    def returning(self, now: float) -> dict[str, int]:
        """What tasks hold of the node that comes back soon when it is asked for."""
        return total_of(
            lease.taken.in_use()
            for lease in self.leases.values()
            if lease.taken is not None
            and lease.taken.source is self._resources.node
            and (lease.asked is None or now - lease.asked < _LONG_TASK_S)
        )

    def _find_overdue(self, now: float) -> None:
        """Let no request be passed for ever that would fit once the tasks have made way.

        Where a long task or an actor has what it needs, keeping the rest for it would help nobody.
        """
        soon = total_of([self._row.available, self.returning(now)])
        for request in self._waiting:
            request.overdue = (
                now - request.since > _OVERDUE_S
                and not isinstance(request.demand.strategy, InGroup)
                and self._resources.serves(request.demand)
                and fits(request.demand.resources, soon)
            )

    # --- for people --------------------

    def shapes(self, now: float) -> list[WaitingShape]:
        """What waits here, by shape."""
        asked: dict[tuple[bool, Shape], list[PendingRequest]] = {}
        for request in self._waiting:
            demand = request.demand
            shape = Shape(tuple(sorted(demand.resources.items())), demand.strategy, demand.selector)
            asked.setdefault((request.on_moved is None, shape), []).append(request)
        return [
            WaitingShape(
                dict(shape.resources),
                sum(request.backlog for request in requests),
                now - min(request.since for request in requests),
                for_actor, shape.strategy, shape.selector,
            )
            for (for_actor, shape), requests in asked.items()
            if any(request.backlog for request in requests)
        ]  # fmt: skip

    def _choose(self, request: PendingRequest, others: Sequence[NodeInfo]) -> Choice:
        """The policy's choice; with ``node``, which is charged, if it goes to another node."""
        demand, row = request.demand, self._row
        choice = choose(
            demand, [row, *others], row.node_id, self._generator, self._turn, request.near
        )
        stays = choice.verdict is Verdict.LATER and self._resources.serves(demand)
        if choice.node is row or stays:
            return Choice(choice.verdict)
        if choice.node is not None:
            charge(demand, choice.node)
        return choice


def _competes(request: PendingRequest, lease: LeaseLife) -> bool:
    """Whether a request is for other tasks than those that the lease is used for."""
    return request.asker is not lease.holder or request.queue != lease.queue


def _is_of_group(lease: LeaseLife, group_id: bytes) -> bool:
    """Whether a lease has resources of a placement group."""
    strategy = lease.request.strategy
    return isinstance(strategy, InGroup) and strategy.group_id == group_id


def _is_news(request: PendingRequest, choice: Choice, nodes: Nodes) -> bool:
    """Whether it names a node of which this one has not heard, for the first time."""
    strategy = request.demand.strategy
    return (
        choice.verdict is Verdict.UNSCHEDULABLE
        and isinstance(strategy, OnNode)
        and not request.looked_up
        and not nodes.knows(strategy.node_id)
    )
