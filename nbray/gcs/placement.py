"""Where actors go: the choice of a node, and asking its raylet without flooding it.

An actor waits for its resources at a raylet, so that the raylet can ask for idle leases back, but
only for `_WAIT_S`; then the raylet answers that it is busy, and the next node is asked. Of one
shape, at most `_ASKING` actors ask at a time, the rest wait here in their order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from nbray.common.resources import UNIT
from nbray.scheduling.policy import Choice, Demand, Verdict, charge, choose
from nbray.wire.records import ActorOptions, NodeInfo
from nbray.wire.strategies import InGroup, Shape, Spread

_WAIT_S = 1.0
_ASKING = 64
_DEFAULT_PLACEMENT = {"CPU": UNIT}


def shape_of(options: ActorOptions) -> Shape:
    """What an actor needs of a node."""
    return Shape(tuple(sorted(options.resources.items())), options.strategy, options.selector)


@dataclass
class _Turns:
    """The actors of a shape that ask now; those that wait; the nodes that were busy."""

    asking: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_ASKING))
    users: int = 0


class ActorPlacement:
    """Chooses nodes for actors. ``nodes`` gives the rows."""

    wait_s = _WAIT_S

    def __init__(self, nodes: Callable[[], list[NodeInfo]], generator: random.Random) -> None:
        self._nodes = nodes
        self._generator = generator
        self._turn = 0
        self._turns: dict[Shape, _Turns] = {}
        self._changed = asyncio.Event()

    def nodes_changed(self) -> None:
        """A node joined, or reported other resources than before."""
        self._changed.set()
        self._changed = asyncio.Event()

    def choose(self, options: ActorOptions, busy: set[bytes]) -> Choice:
        """A node for an actor; those that were ``busy`` are asked again when all have been.

        An actor that asks for nothing goes where a CPU is free, if there is such a node.
        """
        demand = Demand(options.resources, options.strategy, options.selector)
        if isinstance(options.strategy, Spread):
            self._turn += 1
        choice = Choice(Verdict.INFEASIBLE)
        if not options.resources and not isinstance(options.strategy, InGroup):
            wanted = Demand(_DEFAULT_PLACEMENT, options.strategy, options.selector)
            choice = self._choose(wanted, busy)
        if choice.verdict is not Verdict.NOW:
            choice = self._choose(demand, busy)
        if choice.node is not None:
            charge(demand, choice.node)
        return choice

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

    @asynccontextmanager
    async def turn(self, options: ActorOptions) -> AsyncIterator[None]:
        """The right to ask raylets for an actor of this shape."""
        shape = shape_of(options)
        turns = self._turns.setdefault(shape, _Turns())
        turns.users += 1
        try:
            async with turns.asking:
                yield
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[shape]

    async def wait_for_change(self, longest_s: float) -> None:
        """Until a node joins or reports other resources, or ``longest_s`` seconds are over."""
        try:
            async with asyncio.timeout(longest_s):
                await self._changed.wait()
        except TimeoutError:
            return
