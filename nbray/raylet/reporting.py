"""What a raylet tells the GCS again and again, and when it gives the GCS up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nbray.common.config import Config
from nbray.common.own_time import OwnTime
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)

_SOONEST_S = 0.1
_TIMEOUT_S = 2.0


class Reporter:
    """Reports every period, and soon after the node's resources have changed.

    Only time that this raylet has seen itself counts against a GCS that does not answer; a health
    check of the GCS is an answer.

    Args:
        gcs: whom it tells.
        config: periods.
        make: what is to be told now.
        on_nodes: takes the rows of all nodes, with which the GCS answers.
        look_after: what is to be done on the node as often.
        changed: set when the node's resources have changed.
    """

    def __init__(
        self,
        gcs: GrpcClient,
        config: Config,
        make: Callable[[], g.Report],
        on_nodes: Callable[[list[NodeInfo]], None],
        look_after: Callable[[], None],
        changed: asyncio.Event,
    ) -> None:
        self._gcs = gcs
        self._config = config
        self._make = make
        self._on_nodes = on_nodes
        self._look_after = look_after
        self._changed = changed
        self._clock = OwnTime(2 * _TIMEOUT_S)
        self._heard = self._clock.now()

    async def run(self) -> None:
        """Report for ever; returns when this node has to leave."""
        while True:
            try:
                if not await self._report():
                    return
            except Exception:  # of the machine, such as files that cannot be opened
                logger.exception("A report to the GCS was not made")
            try:
                self._look_after()
            except Exception:
                logger.exception("The node was not looked after")
            await asyncio.sleep(_SOONEST_S)
            try:
                async with asyncio.timeout(self._config.raylet_report_period_s - _SOONEST_S):
                    await self._changed.wait()
            except TimeoutError:
                continue
            finally:
                self._changed.clear()

    async def _report(self) -> bool:
        """Make one report; False if this node has to leave."""
        try:
            reply = await self._gcs.call("Report", self._make(), g.Nodes, _TIMEOUT_S)
        except RpcError as error:
            silence = self._clock.now() - self._heard
            if silence > self._config.gcs_rpc_server_reconnect_timeout_s:
                logger.error(
                    "The GCS did not answer for %.0f s (%s); the node leaves.", silence, error
                )
                return False
            return True
        self._heard = self._clock.now()
        if reply.rejected:
            logger.error("The GCS declared this node dead; it leaves.")
            return False
        self._on_nodes(reply.nodes)
        return True

    async def ping(self, _request: g.Empty) -> g.Empty:
        """The GCS asks whether this raylet lives, and so shows that it does itself."""
        self._heard = self._clock.now()
        return g.Empty()
