"""The processes of actors: raylets are asked to start, end and list them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nbray.common.background import Background
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import ActorsHere, ActorStarted, Empty, EndActor, StartActor
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

NOT_WANTED = Cause(CauseKind.SUPERSEDED, "it was not wanted any more when it had started")
_START_TIMEOUT_S = 3600.0
_RETRY_S = 1.0


class ActorProcesses:
    """What raylets are asked about actors. ``nodes`` gives the rows, ``raylet`` a node's client."""

    def __init__(
        self, nodes: Callable[[], list[NodeInfo]], raylet: Callable[[NodeInfo], GrpcClient]
    ) -> None:
        self._nodes = nodes
        self._raylet = raylet
        self._background = Background()
        self._deaths: dict[bytes, asyncio.Future[None]] = {}

    async def start(self, node: NodeInfo, request: StartActor) -> ActorStarted | None:
        """Have an attempt started at a node; None when that was not heard of."""
        name = request.spec.class_name
        loop = asyncio.get_running_loop()
        died = self._deaths.setdefault(node.node_id, loop.create_future())
        call = loop.create_task(
            self._raylet(node).call("StartActor", request, ActorStarted, _START_TIMEOUT_S)
        )
        try:
            await asyncio.wait((call, died), return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            logger.warning("Actor %s was not started: the node died.", name)
        except RpcError as error:
            logger.warning("Actor %s was not started: %s", name, error)
        finally:
            call.cancel()
        return None

    def node_died(self, node_id: bytes) -> None:
        """Nobody waits any longer for what was to start there."""
        died = self._deaths.pop(node_id, None)
        if died is not None:
            died.set_result(None)

    async def end(
        self, node_id: bytes, actor_id: bytes, attempt: int, cause: Cause, graceful: bool = False
    ) -> None:
        """End the process of an attempt; a ``graceful`` end runs what its user wants run then.

        A node that does not answer is asked again as long as it is alive; nobody waits for that.
        """
        request = EndActor(actor_id, attempt, cause, graceful)
        if not await self._try_to_end(node_id, request):
            self._background.start(self._end(node_id, request))

    async def end_surely(self, node_id: bytes, actor_id: bytes, attempt: int, cause: Cause) -> None:
        """Returns when the process of an attempt is ended, or its node is dead."""
        await self._end(node_id, EndActor(actor_id, attempt, cause))

    async def _end(self, node_id: bytes, request: EndActor) -> None:
        while not await self._try_to_end(node_id, request):
            await asyncio.sleep(_RETRY_S)

    async def _try_to_end(self, node_id: bytes, request: EndActor) -> bool:
        for node in self._nodes():
            if node.node_id == node_id and node.alive:
                try:
                    await self._raylet(node).call("EndActor", request, Empty)
                except RpcError as error:
                    logger.warning("The process of an actor is not ended yet: %s", error)
                    return False
        return True

    async def on(self, node: NodeInfo) -> ActorsHere | None:
        """The attempts that a node has, whenever it answers; None when it is dead."""
        name = node.node_id.hex()[:8]
        while any(row.alive and row.node_id == node.node_id for row in self._nodes()):
            try:
                return await self._raylet(node).call("ActorsHere", Empty(), ActorsHere)
            except RpcError as error:
                logger.warning("Node %s did not list its actors yet: %s", name, error)
                await asyncio.sleep(_RETRY_S)
        return None
