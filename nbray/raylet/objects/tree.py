"""Who gives the parts of an object to whom, when several nodes want it.

The node that has the object, and is asked for its parts, is the root. It sends a node that asks to
another one which has the part already, or is receiving it, when that one has less to do than the
root. So parts go down a tree of their own each, whose shape follows from how fast the nodes are:
a slow one is busy, and is not chosen. Nodes take the parts in different orders, so
that each has something that the others want. A node that comes late is a leaf like any other; of
one that dies or does not give a part, those below it tell the root, which gives them another.

A part that is on its way can be waited for in a tree only, so nodes must not wait for each other in
a circle. A node that asks for a part for the first time has nobody below it for that part, and may
be sent to whoever is receiving it; one that asks again, to those that have it.

All of it is pure: `Ask` is the answer, and its end is told by `end`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

ROOT = b""
"""The node that is asked."""


@dataclass(frozen=True)
class Ask:
    """``node`` gets ``part`` from ``giver``, which may be `ROOT`."""

    node: bytes
    part: int
    giver: bytes


class Tree:
    """The trees of one object's parts."""

    def __init__(self) -> None:
        self._depths: dict[int, dict[bytes, int]] = {}
        self._asked: set[tuple[bytes, int]] = set()
        self._loads: Counter[bytes] = Counter()
        self._distrusted: set[tuple[bytes, bytes]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether a part is on its way."""
        return self._loads.total() > 0

    def ask(self, node: bytes, part: int) -> Ask:
        """A node wants a part."""
        first = (node, part) not in self._asked
        self._asked.add((node, part))
        # How many steps after the root a node has the part; 0 has it now.
        depths = self._depths.setdefault(part, {})
        best, least, depth = ROOT, self._loads[ROOT], 0
        for other, steps in depths.items():
            if other == node or (node, other) in self._distrusted or (steps and not first):
                continue
            cost = steps + self._loads[other]
            if cost < least:
                best, least, depth = other, cost, steps
        self._loads[best] += 1
        depths[node] = depth + 1
        return Ask(node, part, best)

    def end(self, ask: Ask, came: bool) -> None:
        """The node has the part now, or did not get it."""
        self._loads[ask.giver] -= 1
        if not self._loads[ask.giver]:
            del self._loads[ask.giver]
        depths = self._depths.get(ask.part, {})
        if came:
            if ask.node in depths:
                depths[ask.node] = 0
            return
        depths.pop(ask.node, None)
        if ask.giver != ROOT:
            self._distrusted.add((ask.node, ask.giver))

    def gone(self, node: bytes) -> None:
        """A node has ended, or has the object no more: nobody is sent there."""
        for depths in self._depths.values():
            depths.pop(node, None)
