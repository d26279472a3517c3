"""Which nodes are alive: what is a fact, and what silence may mean.

That a raylet has ended is a fact, known at once: on this machine the kernel tells of its process;
on another, nothing listens any more where it listened. Everything else is silence, and processes
stand still for seconds: stopped, swapped out, paused with their machine. So a raylet that does not
report is asked, as in Ray: every ``health_check_period_s``, with ``health_check_timeout_s`` to
answer, and it is dead when ``health_check_failure_threshold`` in a row were not answered. That is
about a minute, by when a node that is cut off has left by itself, so that no actor lives twice.

Reports that wait unread are no silence, since the answers come another way; what this process
itself stood still for does not count. The head's own node and the last one of the cluster are never
dead by a clock: nobody else would go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nbray.common.addresses import joined
from nbray.common.background import Background
from nbray.common.config import Config
from nbray.common.own_time import OwnTime
from nbray.common.pids import machine, open_process
from nbray.common.sparing_log import SparingLog
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, RpcError
from nbray.wire.records import NodeInfo

logger = logging.getLogger(__name__)
_shortages = SparingLog(logger)

_LOOK_S = 0.25
_CALM_LOOK_S = 1.0
_KNOCK_AFTER_S = 1.0
_KNOCKS = 2


@dataclass
class _Watch:
    """One node that is alive. Times are those of this process's own clock.

    ``heard`` is when it was heard of, or later when its next report is due later than usual.
    """

    node: NodeInfo
    heard: float
    descriptor: int | None = None
    misses: int = 0
    refused: int = 0
    asking: bool = False
    asked: float = 0.0
    warned: bool = False


class NodeHealth:
    """Watches the nodes that are alive; ``on_dead`` hears which is not, and why.

    ``raylet`` gives a node's client.
    """

    def __init__(
        self,
        config: Config,
        raylet: Callable[[NodeInfo], GrpcClient],
        on_dead: Callable[[bytes, str], Awaitable[None]],
    ) -> None:
        self._config = config
        self._raylet = raylet
        self._on_dead = on_dead
        self._machine = machine()
        self._clock = OwnTime(2 * _LOOK_S)
        self._watches: dict[bytes, _Watch] = {}
        self._background = Background()

    def heard(self, node: NodeInfo, next_s: float) -> None:
        """A node reported, and will again in ``next_s``; one that is new is watched from now on."""
        watch = self._watches.get(node.node_id)
        if watch is None:
            self.watch(node, next_s)
            return
        watch.node, watch.heard = node, self._clock.now() + self._later(next_s)
        watch.misses = watch.refused = 0
        watch.warned = False
        if watch.descriptor is None:
            self._watch_process(watch)

    def watch(self, node: NodeInfo, next_s: float) -> None:
        """Watch a node, as if it had just been heard of."""
        heard = self._clock.now() + self._later(next_s)
        watch = self._watches[node.node_id] = _Watch(node, heard)
        self._watch_process(watch)

    def _watch_process(self, watch: _Watch) -> None:
        """Have the kernel tell of the end of a raylet of this machine; with the next report, if
        there is no descriptor now.
        """
        process = watch.node.process
        if process is None or process.machine != self._machine:
            return
        try:
            watch.descriptor = open_process(process.pid, process.started)
        except OSError as error:
            _shortages.warning(
                "The raylet pid %d is watched by its reports: %s", process.pid, error
            )
            return
        cause = f"its raylet, pid {process.pid}, has ended"
        if watch.descriptor is None:
            self._dead(watch, cause)
        else:
            loop = asyncio.get_running_loop()
            loop.add_reader(watch.descriptor, self._dead, watch, cause)

    def _later(self, next_s: float) -> float:
        """How much later than usual a report is due."""
        return max(0.0, next_s - self._config.raylet_report_period_s)

    def forget(self, node_id: bytes) -> None:
        """A node is not alive any more."""
        watch = self._watches.pop(node_id, None)
        if watch is not None and watch.descriptor is not None:
            asyncio.get_running_loop().remove_reader(watch.descriptor)
            os.close(watch.descriptor)

    def sees_end(self, node_id: bytes) -> bool:
        """Whether the end of a node's raylet is seen at once, since the kernel tells of it."""
        watch = self._watches.get(node_id)
        return watch is not None and watch.descriptor is not None

    def silence_s(self, node_id: bytes) -> float:
        """For how long a node has not been heard of; 0 for one that is not watched."""
        watch = self._watches.get(node_id)
        return 0.0 if watch is None else max(0.0, self._clock.now() - watch.heard)

    def _dead(self, watch: _Watch, cause: str) -> None:
        node_id = watch.node.node_id
        if self._watches.get(node_id) is watch:
            self.forget(node_id)
            self._background.start(self._tell(node_id, cause))

    async def _tell(self, node_id: bytes, cause: str) -> None:
        await self._on_dead(node_id, cause)

    # --- silence --------------------

    async def run(self) -> None:
        """Look after those that are silent, until cancelled."""
        while True:
            pause = self._pause_s()
            self._clock.longest_s = pause + _LOOK_S
            await asyncio.sleep(pause)
            now = self._clock.now()
            for watch in list(self._watches.values()):
                if watch.asking or now - watch.heard < _KNOCK_AFTER_S:
                    continue
                long = now - watch.heard >= self._config.health_check_period_s
                if long and now - watch.asked >= self._config.health_check_period_s:
                    watch.asking = True
                    self._background.start(self._ask(watch))
                elif watch.descriptor is None:
                    watch.asking = True
                    self._background.start(self._knock(watch))

    def _pause_s(self) -> float:
        """How long the next look may wait: nobody is to be asked or knocked at before."""
        if any(watch.descriptor is None for watch in self._watches.values()):
            return _LOOK_S
        silent_since = min((watch.heard for watch in self._watches.values()), default=math.inf)
        asked_in = silent_since + self._config.health_check_period_s - self._clock.now()
        return _CALM_LOOK_S if asked_in > _CALM_LOOK_S else _LOOK_S

    async def _knock(self, watch: _Watch) -> None:
        """Look whether anything still listens where the raylet does."""
        node = watch.node
        try:
            async with asyncio.timeout(self._config.health_check_timeout_s):
                _, writer = await asyncio.open_connection(node.host, node.grpc_port)
                writer.close()
        except ConnectionRefusedError:
            watch.refused += 1
            if watch.refused >= _KNOCKS:
                where = joined(node.host, node.grpc_port)
                self._dead(watch, f"its raylet has ended: nothing listens at {where}")
        except OSError as error:  # a timeout too: nobody knows
            logger.debug("Node %s cannot be reached: %s", node.node_id.hex()[:8], error)
            watch.refused = 0
        else:
            watch.refused = 0
        finally:
            watch.asking = False

    async def _ask(self, watch: _Watch) -> None:
        """One health check."""
        began, own = time.monotonic(), self._clock.now()
        limit = self._config.health_check_timeout_s
        try:
            await self._raylet(watch.node).call("Ping", Empty(), Empty, limit)
        except RpcError as error:
            # A connection that breaks at once is no answer, and no shorter time to answer in.
            await asyncio.sleep(limit - (self._clock.now() - own))
            stood_still = time.monotonic() - began - (self._clock.now() - own)
            if watch.heard < own and stood_still < self._config.health_check_period_s:
                self._missed(watch, error)
        else:
            watch.heard = self._clock.now()
            watch.misses = watch.refused = 0
        finally:
            watch.asking = False
            watch.asked = self._clock.now()

    def _missed(self, watch: _Watch, error: RpcError) -> None:
        watch.misses += 1
        name, silence = watch.node.node_id.hex()[:8], self._clock.now() - watch.heard
        logger.warning("Node %s has been silent for %.0f s: %s", name, silence, error)
        if watch.misses < self._config.health_check_failure_threshold:
            return
        if len(self._watches) == 1 or (watch.node.is_head and watch.descriptor is not None):
            if not watch.warned:
                watch.warned = True
                logger.warning("It is not declared dead: nobody else would go on.")
            return
        self._dead(watch, f"it answered none of {watch.misses} health checks in {silence:.0f} s")
