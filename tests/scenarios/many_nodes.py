"""A control plane under a thousand nodes: simulated raylets around a real GCS.

``python tests/scenarios/many_nodes.py --nodes 1000`` starts a GCS and so many raylets without
processes of their own: each is the product's `Reporter` and `NodeTable` on a connection of its own.
It prints how long all took to join, what the GCS takes of a core while nothing and while much
happens, and how soon a change has reached everybody.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import uvloop

from nbray.common.config import Config
from nbray.common.process import spawn
from nbray.common.session import Session
from nbray.raylet.nodes import NodeTable, watch_nodes
from nbray.raylet.watch.reporting import Reporter
from nbray.wire import gcs_messages as g
from nbray.wire import grpc_calls
from nbray.wire.credentials import read_identity
from nbray.wire.grpc_service import GrpcClient, serve
from nbray.wire.records import NodeInfo

# Channels of one process to one address would share a connection.
grpc_calls._OPTIONS.append(("grpc.use_local_subchannel_pool", 1))

WAIT_S = 300.0  # all raylets share this process: what takes seconds of it may take minutes
CPUS = 8 * 10_000


class SimulatedRaylet:
    """A node of 8 CPUs that reports and hears of others, and runs nothing."""

    def __init__(self, address: str, token: bytes, config: Config, port: int) -> None:
        self.row = NodeInfo(
            os.urandom(28), "127.0.0.1", 1, port, "simulated", False, True, {"CPU": CPUS},
            {"CPU": CPUS}, {"cpu_percent": 1.0, "memory_used": 1e9}, labels={"zone": "a"},
        )  # fmt: skip
        self.gcs = GrpcClient(address, token, config.gcs_rpc_server_reconnect_timeout_s)
        self.nodes = NodeTable(self.row.node_id, self.gcs, token)
        self.died: list[bytes] = []
        self.known: dict[bytes, dict[str, int]] = {}
        self.left = False
        self._changed = asyncio.Event()
        self._reporter = Reporter(
            self.gcs, config, lambda: g.Report(self.row), self.nodes.settle, self._changed
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Register, and live from then on."""
        reply = await self.gcs.call("Report", g.Report(self.row), g.Reported, WAIT_S)
        self._reporter.answered(reply)
        self._tasks = [
            asyncio.create_task(self._report()),
            asyncio.create_task(watch_nodes(self.row.node_id, self.gcs, self._take)),
        ]

    async def _report(self) -> None:
        await self._reporter.run()
        self.left = True

    def _take(self, changes: g.NodeChanges) -> None:
        self.died += self.nodes.apply(changes)
        if changes.complete:
            self.known = {}
        for row in changes.nodes:
            self.known[row.node_id] = row.available
            if not row.alive:
                del self.known[row.node_id]
        for room in changes.room:
            self.known[room.node_id] = room.available

    def use(self, cpus: int) -> None:
        """Have so many of its CPUs taken."""
        self.row.available = {"CPU": CPUS - cpus * 10_000}
        self._changed.set()

    async def leave(self) -> None:
        """Say that the node leaves, and end."""
        await self.stop()
        self.row.alive = False
        await self.gcs.call("Report", g.Report(self.row), g.Reported, WAIT_S)

    async def stop(self) -> None:
        """End without a word."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@dataclass
class Figures:
    """What was measured: seconds, parts of a core, and megabytes."""

    nodes: int
    joined_s: float = 0.0
    all_know_s: float = 0.0
    idle_core: float = 0.0
    room_told_s: float = 0.0
    join_told_s: float = 0.0
    leave_told_s: float = 0.0
    busy_core: float = 0.0
    gcs_mb: float = 0.0
    false_deaths: int = 0


@contextlib.asynccontextmanager
async def gcs_process() -> AsyncIterator[tuple[str, bytes, psutil.Process]]:
    """A GCS of its own: its address, its token, its process."""
    with tempfile.TemporaryDirectory(prefix="nbray-") as folder:
        os.environ["NBRAY_TMPDIR"] = folder
        session = Session.create()
        arguments = ["--session-dir", str(session.path), "--host", "127.0.0.1", "--port", "0"]
        child = spawn("nbray.gcs", arguments, Path(folder) / "gcs.log", fate_shared=True)
        try:
            port = (await asyncio.to_thread(child.wait_ready, 30.0))["port"]
            read_identity(session)
            yield f"127.0.0.1:{port}", session.token, psutil.Process(child.pid)
        finally:
            child.terminate()


async def _until(condition: Callable[[], bool], what: str) -> float:
    """Seconds until a condition holds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > WAIT_S:
            raise TimeoutError(f"not within {WAIT_S:.0f} s: {what}")
        await asyncio.sleep(0.05)  # looking at a thousand tables takes a while
    return time.monotonic() - began


async def _core_used(process: psutil.Process, seconds: float) -> float:
    """Which part of a core a process takes for so many seconds."""
    before = sum(process.cpu_times()[:2])
    await asyncio.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / seconds


async def measure(count: int, seconds: float = 10.0) -> Figures:
    """Have so many nodes join and live, and measure; see `Figures`."""
    config, figures = Config.from_env(), Figures(count)
    async with gcs_process() as (address, token, process):
        server, port = await serve("127.0.0.1", 0, token, {"Ping": (g.Empty, _ping)})
        raylets = [SimulatedRaylet(address, token, config, port) for _ in range(count)]
        everybody = raylets.copy()
        try:
            began = time.monotonic()
            await asyncio.gather(*(raylet.join() for raylet in raylets))
            figures.joined_s = time.monotonic() - began

            def all_know(of: int) -> bool:
                assert not any(raylet.left for raylet in raylets), "nodes were declared dead"
                return all(len(raylet.known) == of for raylet in raylets)

            await _until(lambda: all_know(count), "all nodes to know all")
            figures.all_know_s = time.monotonic() - began
            await asyncio.sleep(3.0)
            figures.idle_core = await _core_used(process, seconds)

            one = raylets[0]
            one.use(3)
            wanted = one.row.available
            figures.room_told_s = await _until(
                lambda: all(r.known[one.row.node_id] == wanted for r in raylets),
                "a node's room to be known",
            )
            late = SimulatedRaylet(address, token, config, port)
            everybody.append(late)
            await late.join()
            raylets.append(late)
            figures.join_told_s = await _until(
                lambda: all_know(count + 1), "a new node to be known"
            )
            await raylets.pop().leave()
            figures.leave_told_s = await _until(lambda: all_know(count), "a node's end to be known")

            busy = asyncio.create_task(_be_busy(raylets))
            figures.busy_core = await _core_used(process, seconds)
            busy.cancel()
            figures.gcs_mb = process.memory_info().rss / 1e6
            gone = {late.row.node_id}
            figures.false_deaths = sum(raylet.left for raylet in raylets) + len(
                {died for raylet in raylets for died in raylet.died} - gone
            )
        finally:
            await asyncio.gather(*(raylet.stop() for raylet in everybody))
            await server.stop(None)
    return figures


async def _ping(_request: g.Empty) -> g.Empty:
    """A health check of any of them."""
    return g.Empty()


async def _be_busy(raylets: list[SimulatedRaylet]) -> None:
    """Every node takes and gives back CPUs, ten times a second."""
    cpus = 0
    while True:
        cpus = cpus % 8 + 1
        for raylet in raylets:
            raylet.use(cpus)
        await asyncio.sleep(0.1)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    figures = uvloop.run(measure(args.nodes, args.seconds))
    print(json.dumps({k: round(v, 3) for k, v in asdict(figures).items()}, indent=1))
    sys.exit(1 if figures.false_deaths else 0)


if __name__ == "__main__":
    main()
