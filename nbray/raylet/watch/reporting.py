"""What a raylet tells the GCS again and again, how often, and when it gives the GCS up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum, auto

from nbray.common.config import Config
from nbray.common.own_time import OwnTime
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import GrpcClient, RpcError

logger = logging.getLogger(__name__)

_SOONEST_S = 0.1
_LATE_S = 0.02
_TIMEOUT_S = 2.0
_LONGEST_TIMEOUT_S = 10.0


class _Outcome(Enum):
    """What became of a report."""

    HEARD = auto()
    UNHEARD = auto()  # as far as is known
    LEAVE = auto()  # this node has to


class Reporter:
    """Reports every period, and soon after the node's resources have changed.

    ``grows``: there is an autoscaler, which may start nodes.

    The GCS says with each answer when the next one is due: the more nodes, the later. So long it
    may take to answer, too: a report that is given up while it waits for a busy GCS has to be made
    again, which keeps the GCS busy. A change that was not heard is told again soon.

    Only time that this raylet has seen itself counts against a GCS that does not answer; a health
    check of the GCS is an answer.

    Args:
        gcs: whom it tells.
        config: periods.
        make: what is to be told now.
        look_after: what is to be done on the node as often.
        changed: set when the node's resources have changed.
    """

    def __init__(
        self,
        gcs: GrpcClient,
        config: Config,
        make: Callable[[], g.Report],
        look_after: Callable[[], None],
        changed: asyncio.Event,
    ) -> None:
        self._gcs = gcs
        self._config = config
        self._make = make
        self._look_after = look_after
        self._changed = changed
        self._clock = OwnTime(2 * _TIMEOUT_S)
        self._heard = self._clock.now()
        self._period_s = config.raylet_report_period_s
        self._soonest_s = _SOONEST_S
        self.grows = False

    async def run(self) -> None:
        """Report for ever; returns when this node has to leave."""
        while True:
            is_change = self._changed.is_set()
            self._changed.clear()
            outcome = _Outcome.UNHEARD
            try:
                outcome = await self._report()
            except Exception:  # of the machine, such as files that cannot be opened
                logger.exception("A report to the GCS was not made")
                is_change = False  # it is tried again with the next report, not at once
            if outcome is _Outcome.LEAVE:
                return
            unheard = outcome is _Outcome.UNHEARD
            if unheard and is_change:
                self._changed.set()
            reported = time.monotonic()
            while not self._is_due(time.monotonic() - reported):
                try:
                    self._look_after()
                except Exception:
                    logger.exception("The node was not looked after")
                await self._wait(reported)
                self._clock.now()  # read often, or much of what passes does not count
                if unheard and self._gives_up():
                    return

    def _is_due(self, passed: float) -> bool:
        """Whether the next report is, so long after the last one."""
        if passed >= self._period_s - _LATE_S:
            return True
        return self._changed.is_set() and passed >= self._soonest_s

    async def _wait(self, reported: float) -> None:
        """Wait for a change that may be reported, or until the node is to be looked after."""
        look_s = self._config.raylet_report_period_s
        passed = time.monotonic() - reported
        try:
            async with asyncio.timeout(min(look_s, self._period_s - passed)):
                await self._changed.wait()
        except TimeoutError:
            return
        soonest = self._soonest_s - (time.monotonic() - reported)
        if soonest > 0:
            await asyncio.sleep(min(look_s, soonest))

    def _gives_up(self, why: str = "") -> bool:
        """Whether the GCS has not been heard of for so long that the node leaves."""
        silence = self._clock.now() - self._heard
        if silence <= self._config.gcs_rpc_server_reconnect_timeout_s:
            return False
        logger.error("The GCS did not answer for %.0f s%s; the node leaves.", silence, why)
        return True

    async def _report(self) -> _Outcome:
        """Make one report."""
        timeout = min(max(_TIMEOUT_S, self._period_s), _LONGEST_TIMEOUT_S)
        self._clock.longest_s = max(timeout, self._config.raylet_report_period_s) + _TIMEOUT_S
        try:
            reply = await self._gcs.call("Report", self._make(), g.Reported, timeout)
        except RpcError as error:
            return _Outcome.LEAVE if self._gives_up(f" ({error})") else _Outcome.UNHEARD
        self.answered(reply)
        if reply.rejected:
            logger.error("The GCS declared this node dead; it leaves.")
            return _Outcome.LEAVE
        return _Outcome.HEARD

    def answered(self, reply: g.Reported) -> None:
        """The GCS answered a report, perhaps the first one, which registers the node."""
        self._heard = self._clock.now()
        self._period_s, self._soonest_s = reply.period_s, reply.soonest_s
        self.grows = self.grows or reply.grows

    async def ping(self, _request: g.Empty) -> g.Empty:
        """The GCS asks whether this raylet lives, and so shows that it does itself."""
        self._heard = self._clock.now()
        return g.Empty()
