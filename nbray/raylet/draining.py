"""Whether this node is idle, and how it leaves when it is drained.

A node is idle while it has no lease, no actor, no bundle and no driver; requests that wait here,
and copies of values, do not change that. How long it has been is seen whenever it reports, by
what is here and by how many leases there have been since, so that a short task counts as well.

A drain is for ever. From the moment it is accepted nothing new begins here; when nothing runs any
more and no process here owns what others need, the values whose only copies are here are moved to
other nodes, and the raylet leaves. Values that no other node takes keep it, unless there is a
deadline: a node that is about to be taken away cannot wait.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nbray.common.background import Background
from nbray.wire.records import NodeInfo
from nbray.wire.scaling_messages import Drained, DrainNode

logger = logging.getLogger(__name__)

_LOOK_S = 0.1
_SLOW_LOOK_S = 1.0


@dataclass(frozen=True)
class Surroundings:
    """What a drain asks of the rooms of a raylet.

    Attributes:
        kept_by: what keeps the node, in words.
        begun: how much work has begun here, ever.
        owners: processes that own what others need, in words.
        recall: has submitters give back what they hold.
        move_values: moves values to other nodes; why some stay, empty when none does.
        changed: has the row be reported soon.
    """

    kept_by: Callable[[], list[str]]
    begun: Callable[[], int]
    owners: Callable[[], Awaitable[list[str]]]
    recall: Callable[[], None]
    move_values: Callable[[], Awaitable[str]]
    changed: Callable[[], None]


class Draining:
    """The idleness of a node, and its end. ``left`` is set when the raylet is to leave.

    Args:
        row: this node's row in the node table.
        around: the rooms.
    """

    def __init__(self, row: NodeInfo, around: Surroundings) -> None:
        self.left = asyncio.Event()
        self._row = row
        self._around = around
        self._busy_at = time.monotonic()
        self._begun = 0
        self._deadline = float("inf")
        self._waits_for = ""
        self._background = Background()

    def use(self) -> tuple[list[str], float]:
        """What keeps the node, in words, and for how many seconds nothing has."""
        now = time.monotonic()
        words, begun = self._around.kept_by(), self._around.begun()
        if words or begun != self._begun:
            self._begun, self._busy_at = begun, now
        if self._row.draining and not words and self._waits_for:
            words = [self._waits_for]
        return words, now - self._busy_at

    async def drain(self, request: DrainNode) -> Drained:
        """Take nothing new from now on, and leave when nothing is here any more."""
        deadline = time.monotonic() + request.deadline_s if request.deadline_s else float("inf")
        if self._row.draining:
            self._deadline = min(self._deadline, deadline)
            return Drained(True)
        if request.only_idle:
            owners = await self._around.owners()
            words = self._around.kept_by() or owners
            if words:
                return Drained(False, ", ".join(words))
            if self._row.draining:
                return Drained(True)
        logger.info("This node drains: %s.", request.reason)
        self._row.draining, self._deadline = request.reason, deadline
        self._around.changed()
        self._background.start(self._leave())
        return Drained(True)

    async def _leave(self) -> None:
        while time.monotonic() < self._deadline:
            try:
                self._around.recall()
                if not self._around.kept_by():
                    self._waits_for = await self._waiting_for()
                    if not self._waits_for and not self._around.kept_by():
                        break
            except Exception:  # the next look may do without what raised it
                logger.exception("The drain of this node did not go on")
            pause = _SLOW_LOOK_S if self._waits_for else _LOOK_S
            await asyncio.sleep(max(0.0, min(pause, self._deadline - time.monotonic())))
        else:
            logger.warning("This node leaves at its deadline, with what is here.")
        self.left.set()

    async def _waiting_for(self) -> str:
        owners = await self._around.owners()
        return ", ".join(owners) or await self._around.move_values()
