"""Who lives: what this raylet says of its own processes, and asks others of theirs.

A process that lost a connection asks its raylet, which knows its own workers by their template and
its drivers by their connections, and asks the raylets of others. An answer that cannot be had
is no death: the GCS says so when a node has died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nbray.common.background import Background
from nbray.raylet.nodes import NodeTable
from nbray.raylet.process import Process
from nbray.wire import messages as m
from nbray.wire.aio import FrameConnection
from nbray.wire.grpc_service import RpcError
from nbray.wire.raylet_messages import FindProcess, ProcessFound

_FIRST_DELAY_S = 0.05
_LONGEST_DELAY_S = 1.0
_ANSWER_S = 2.0


class Liveness:
    """Answers for one node.

    Args:
        node_id: this node.
        nodes: the others.
        is_here: whether a process of this node lives.
        patience_s: how long a connection from a process of another node may stay broken.
    """

    def __init__(
        self,
        node_id: bytes,
        nodes: NodeTable,
        is_here: Callable[[bytes], bool],
        patience_s: float,
    ) -> None:
        self._node_id = node_id
        self._nodes = nodes
        self._is_here = is_here
        self._patience_s = patience_s
        self._watched: set[FrameConnection] = set()
        self._background = Background()

    def answer(self, process: Process, message: m.AskProcess) -> None:
        """A process of this node wants to know."""
        self._background.start(self._answer(process, message))

    async def _answer(self, process: Process, message: m.AskProcess) -> None:
        alive = await self.lives(message.worker_id, message.node_id)
        process.send(m.ProcessState(message.request_id, alive))

    async def find(self, request: FindProcess) -> ProcessFound:
        """Another raylet wants to know."""
        return ProcessFound(not request.worker_id or self._is_here(request.worker_id))

    async def lives(self, worker_id: bytes, node_id: bytes) -> bool:
        """Whether that process lives, as far as is known; without ``worker_id``, that node."""
        if node_id == self._node_id:
            return not worker_id or self._is_here(worker_id)
        try:
            client = await self._nodes.client(node_id)
            if client is None:
                return False
            found = await client.call(
                "FindProcess", FindProcess(worker_id), ProcessFound, _ANSWER_S
            )
        except RpcError:
            return True
        return found.alive

    def broken(self, connection: FrameConnection) -> None:
        """A process of another node lost its socket: close its connection if it has ended."""
        if connection not in self._watched:
            self._watched.add(connection)
            self._background.start(self._watch(connection))

    async def _watch(self, connection: FrameConnection) -> None:
        seen, delay = 0.0, _FIRST_DELAY_S
        try:
            while not connection.connected and not connection.closed:
                if not await self.lives(connection.worker_id, connection.node_id):
                    connection.close("its process has ended")
                elif seen > self._patience_s:
                    connection.close(f"its process could not be reached for {seen:.0f} s")
                else:
                    await asyncio.sleep(delay)
                    seen, delay = seen + delay, min(_LONGEST_DELAY_S, 2 * delay)
        finally:
            self._watched.discard(connection)
