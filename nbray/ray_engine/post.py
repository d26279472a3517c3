"""The post office: an actor to which workers send what they print, and where the kernel calls.

It has a name of the notebook's own and takes no CPU. The kernel's call waits in it until there is
something. What the kernel does not fetch is bounded: later lines are counted instead of kept.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

NAMESPACE = "nbray"
"""Where post offices have their names."""
LIMIT = 16 << 20
"""Characters that it keeps for a kernel that does not fetch them."""


@dataclass
class Row:
    """What a task printed or displayed.

    Attributes:
        kind: ``stdout``, ``stderr``, or a kind of message as Jupyter has it.
        task: the task's id; "" for none.
        name: the task's name.
        pid: of the worker.
        node: the id of its node.
        text: what it printed, or the message's content as JSON.
        dropped: how many lines were left out after it.
    """

    kind: str
    task: str
    name: str
    pid: int
    node: str
    text: str
    dropped: int = 0


@dataclass
class Batch:
    """What a worker sends at once.

    Attributes:
        rows: in the order of their writing.
        children: the tasks that it has submitted, each with the one that it did so for.
    """

    rows: list[Row] = field(default_factory=list)
    children: dict[str, str] = field(default_factory=dict)


class PostOffice:
    """The actor."""

    def __init__(self) -> None:
        self._batch = Batch()
        self._size = 0
        self._arrived = asyncio.Event()

    async def put(self, batch: Batch) -> None:
        """A worker has said something."""
        for row in batch.rows:
            if self._size > LIMIT and row.kind in ("stdout", "stderr"):
                row.dropped += row.text.count("\n")
                row.text = ""
            self._size += len(row.text)
            self._batch.rows.append(row)
        self._batch.children.update(batch.children)
        self._arrived.set()

    async def take(self, seconds: float) -> Batch:
        """What has come; waits so long for it."""
        if not self._arrived.is_set() and seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), seconds)
        taken, self._batch, self._size = self._batch, Batch(), 0
        self._arrived.clear()
        return taken


def office(name: str) -> Any:
    """The post office of that name; ValueError when it has gone."""
    import ray

    return ray.get_actor(name, namespace=NAMESPACE)
