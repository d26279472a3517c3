"""The processes of actors: raylets are asked to start, end and list them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nbray.gcs.placement import ActorPlacement
from nbray.scheduling.policy import Choice, Verdict
from nbray.wire.gcs_messages import ActorsHere, ActorStarted, Empty, EndActor, StartActor
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

_START_TIMEOUT_S = 3600.0


class ActorProcesses:
    """What raylets are asked about actors. ``nodes`` gives the rows, ``raylet`` a node's client."""

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        raylet: Callable[[NodeInfo], GrpcClient],
        placement: ActorPlacement,
    ) -> None:
        self._nodes = nodes
        self._raylet = raylet
        self._placement = placement
        self._starting: dict[bytes, set[asyncio.Future[ActorStarted]]] = {}

    async def start(self, choice: Choice, request: StartActor) -> ActorStarted | None:
        """Have an attempt started at the chosen node; None when that was not heard of."""
        node, spec = choice.node, request.spec
        assert node is not None
        call = asyncio.ensure_future(
            self._raylet(node).call("StartActor", request, ActorStarted, _START_TIMEOUT_S)
        )
        calls = self._starting.setdefault(node.node_id, set())
        calls.add(call)
        try:
            if choice.verdict is Verdict.LATER:
                async with self._placement.turn(spec.options):
                    await asyncio.wait({call}, timeout=request.wait_s + 1)
            return await call
        except RpcError as error:
            logger.warning("Actor %s was not started: %s", spec.class_name, error)
        except asyncio.CancelledError:
            if not call.cancelled():
                raise
            logger.warning("Actor %s was not started: the node died.", spec.class_name)
        finally:
            calls.discard(call)
        return None

    def node_died(self, node_id: bytes) -> None:
        """Nobody waits any longer for what was to start there."""
        for call in self._starting.pop(node_id, ()):
            call.cancel()

    async def end(
        self, node_id: bytes, actor_id: bytes, attempt: int, graceful: bool = False
    ) -> None:
        """End the process of an attempt; a ``graceful`` end runs what its user wants run then."""
        request = EndActor(actor_id, attempt, graceful)
        for node in self._nodes():
            if node.node_id == node_id and node.alive:
                try:
                    await self._raylet(node).call("EndActor", request, Empty)
                except RpcError as error:
                    logger.warning("The process of an actor was not ended: %s", error)

    async def on(self, node: NodeInfo) -> ActorsHere | None:
        """The attempts that a node has; None when it does not answer."""
        try:
            return await self._raylet(node).call("ActorsHere", Empty(), ActorsHere)
        except RpcError as error:
            logger.warning("Node %s did not list its actors: %s", node.node_id.hex()[:8], error)
            return None
