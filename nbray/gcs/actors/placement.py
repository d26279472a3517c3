"""Where actors go: the choice of a node, and asking its raylet without flooding it.

An actor waits for its resources at a raylet, so that the raylet can ask for idle leases back, but
only for `_WAIT_S`; then the raylet answers that it is busy, and the next node is asked. Of one
shape, at most `_ASKING` actors ask at a time, the rest wait here in their order.

Actors that say nothing of resources take none, so nothing in a node's row grows with them: they
are counted here, and go where there are the fewest for its CPUs.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nbray.common.resources import fits
from nbray.scheduling.labels import matches
from nbray.scheduling.policy import (
    Choice,
    Demand,
    Verdict,
    by_selectors,
    charge,
    choose,
    could_hold,
)
from nbray.wire.records import ActorOptions, NodeInfo
from nbray.wire.strategies import Anywhere, InGroup, LabelTerm, Shape, Spread

_WAIT_S = 1.0
_ASKING = 64


def shape_of(options: ActorOptions) -> Shape:
    """What an actor needs of a node."""
    needed = options.placing or options.resources
    return Shape(tuple(sorted(needed.items())), options.strategy, options.selector)


def demand_of(options: ActorOptions) -> Demand:
    """The wish for a node."""
    return Demand(options.placing or options.resources, options.strategy, options.selector)


class _Line(asyncio.Semaphore):
    """The actors of a shape that ask now, and those that wait for it; ``users`` counts both."""

    def __init__(self) -> None:
        super().__init__(_ASKING)
        self.users = 0


class Turn:
    """The right of one actor to ask raylets for room, which few of a shape have at a time.

    Who has it keeps it while it waits for room, so that the oldest come first.
    """

    def __init__(self, line: _Line) -> None:
        self._line = line
        self.held = False

    @property
    def is_far(self) -> bool:
        """Whether others wait for room already, as many as may at a time."""
        return self._line.locked()

    async def take(self) -> None:
        """Wait for it."""
        await self._line.acquire()
        self.held = True

    def give_back(self) -> None:
        """Let the next one ask, unless this was done."""
        if self.held:
            self.held = False
            self._line.release()


class ActorPlacement:
    """Chooses nodes for actors. ``nodes`` gives the rows."""

    wait_s = _WAIT_S

    def __init__(self, nodes: Callable[[], list[NodeInfo]], generator: random.Random) -> None:
        self._nodes = nodes
        self._generator = generator
        self._turn = 0
        self._lines: dict[Shape, _Line] = {}
        self._where: dict[bytes, bytes] = {}
        self._light: Counter[bytes] = Counter()
        self._changed = asyncio.Event()

    def nodes_changed(self) -> None:
        """A node joined, or reported other resources than before."""
        self._changed.set()
        self._changed = asyncio.Event()

    def choose(self, actor_id: bytes, options: ActorOptions, busy: set[bytes]) -> Choice:
        """A node for an actor; those that were ``busy`` are asked again when all have been."""
        demand = demand_of(options)
        if isinstance(options.strategy, Spread):
            self._turn += 1
        if options.placing and isinstance(options.strategy, Anywhere):
            choice = self._fewest(demand, busy)
        else:
            choice = self._choose(demand, busy)
        node = choice.node
        if node is None:
            return choice
        taken = Demand(options.resources, options.strategy, options.selector)
        if options.placing:
            self.stands(actor_id, node.node_id)
            if isinstance(options.strategy, InGroup) or fits(options.resources, node.available):
                choice = Choice(Verdict.NOW, node)  # what it does not take, it need not wait for
        charge(taken, node)
        return choice

    def stands(self, actor_id: bytes, node_id: bytes) -> None:
        """An actor that takes no CPU is on a node, or is being started there."""
        self.left(actor_id)
        self._where[actor_id] = node_id
        self._light[node_id] += 1

    def left(self, actor_id: bytes) -> None:
        """It is there no more."""
        node_id = self._where.pop(actor_id, None)
        if node_id is not None:
            self._light[node_id] -= 1
            if not self._light[node_id]:
                del self._light[node_id]

    def _fewest(self, demand: Demand, busy: set[bytes]) -> Choice:
        """The node with the fewest such actors a CPU, of those that have a CPU free, if any."""
        return by_selectors(demand, lambda terms: self._fewest_of(demand, terms, busy))

    def _fewest_of(self, demand: Demand, terms: tuple[LabelTerm, ...], busy: set[bytes]) -> Choice:
        """The same, of the nodes that meet some conditions on labels."""
        able = [
            node
            for node in self._nodes()
            if node.takes_work and matches(terms, node.labels) and could_hold(demand, node)
        ]
        if not able:
            return Choice(Verdict.INFEASIBLE)
        if not [node for node in able if node.node_id not in busy]:
            busy.clear()
        able = [node for node in able if node.node_id not in busy]
        free = [node for node in able if fits(demand.resources, node.available)]
        among = [node for node in free or able if not node.total.get("GPU")] or free or able
        node = min(among, key=lambda n: ((self._light[n.node_id] + 1) / n.total["CPU"], n.node_id))
        return Choice(Verdict.NOW if free else Verdict.LATER, node)

    def _choose(self, demand: Demand, busy: set[bytes]) -> Choice:
        rows = self._nodes()
        choice = choose(demand, rows, b"", self._generator, self._turn)
        if choice.verdict is Verdict.LATER and busy:
            others = [row for row in rows if row.node_id not in busy]
            other = choose(demand, others, b"", self._generator, self._turn)
            if other.verdict in (Verdict.NOW, Verdict.LATER):
                return other
            busy.clear()
        return choice

    @contextmanager
    def turn(self, options: ActorOptions) -> Iterator[Turn]:
        """A turn among those of this shape, to be taken; it is given back in the end."""
        shape = shape_of(options)
        line = self._lines.setdefault(shape, _Line())
        line.users += 1
        turn = Turn(line)
        try:
            yield turn
        finally:
            turn.give_back()
            line.users -= 1
            if not line.users:
                del self._lines[shape]

    async def wait_for_change(self, longest_s: float) -> None:
        """Until a node joins or reports other resources, or ``longest_s`` seconds are over."""
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return
