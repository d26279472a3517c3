"""Whom the GCS looks after, and how often: less while the kernel would tell of every end."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys

import pytest
from support.descriptors import no_file_left

from nbray.common.config import Config
from nbray.common.pids import machine, start_time
from nbray.gcs.nodes.health import NodeHealth
from nbray.gcs.nodes.pace import near_report_period_s
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.records import LocalProcess, NodeInfo

TOKEN = b"t" * 32


class Watcher:
    """A `NodeHealth` with what it has said; ``heard`` is set when it says something."""

    def __init__(self, config: Config) -> None:
        self.said: list[tuple[bytes, str]] = []
        self.heard = asyncio.Event()
        self.health = NodeHealth(
            config, lambda node: GrpcClient(f"{node.host}:{node.grpc_port}", TOKEN), self._on_dead
        )

    async def _on_dead(self, node_id: bytes, cause: str) -> None:
        self.said.append((node_id, cause))
        self.heard.set()


def near(node_id: bytes, process: subprocess.Popen[bytes], port: int = 1) -> NodeInfo:
    """A node whose raylet is this process."""
    own = LocalProcess(machine(), process.pid, start_time(process.pid))
    return NodeInfo(node_id, "127.0.0.1", 0, port, "", False, True, {}, {}, process=own)


def lives() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


def test_the_end_of_a_raylet_on_its_machine_is_told_without_a_look() -> None:
    async def scenario() -> None:
        watcher = Watcher(Config())
        with lives() as raylet:
            watcher.health.watch(near(b"near", raylet), 0.0)
            assert watcher.health.sees_end(b"near") and not watcher.health.sees_end(b"another")
            raylet.kill()
            async with asyncio.timeout(60):  # nobody runs it
                await watcher.heard.wait()
            assert watcher.said == [(b"near", f"its raylet, pid {raylet.pid}, has ended")]
            assert not watcher.health.sees_end(b"near")

    asyncio.run(scenario())


def test_the_end_of_a_raylet_that_came_while_there_was_no_descriptor_is_told_too() -> None:
    async def scenario() -> None:
        watcher = Watcher(Config())
        with lives() as raylet:
            node = near(b"near", raylet)
            with no_file_left():
                watcher.health.heard(node, 0.0)
                watcher.health.heard(node, 0.0)
            assert not watcher.health.sees_end(b"near")
            watcher.health.heard(node, 0.0)
            assert watcher.health.sees_end(b"near")
            raylet.kill()
            async with asyncio.timeout(60):
                await watcher.heard.wait()

    asyncio.run(scenario())


def test_a_node_elsewhere_that_joins_near_ones_is_looked_after() -> None:
    async def scenario() -> None:
        watcher = Watcher(Config(health_check_period_s=3600.0))
        with lives() as raylet, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            watcher.health.watch(near(b"near", raylet), 0.0)
            watching = asyncio.get_running_loop().create_task(watcher.health.run())
            await asyncio.sleep(0)  # its first look is a calm one's pause away
            far = NodeInfo(b"far", "127.0.0.1", 0, port, "", False, True, {}, {})
            watcher.health.watch(far, 0.0)
            assert not watcher.health.sees_end(b"far")
            async with asyncio.timeout(60):
                await watcher.heard.wait()
            watching.cancel()
            raylet.kill()
        assert watcher.said == [
            (b"far", f"its raylet has ended: nothing listens at 127.0.0.1:{port}")
        ]

    asyncio.run(scenario())


def test_a_near_node_that_is_silent_is_asked() -> None:
    """It lives, and answers no health check: silence among calm looks counts in full."""

    async def scenario() -> None:
        config = Config(health_check_period_s=1.5, health_check_timeout_s=0.2,
                        health_check_failure_threshold=2)  # fmt: skip
        watcher = Watcher(config)
        with lives() as silent, lives() as other, socket.create_server(("127.0.0.1", 0)) as mute:
            port = mute.getsockname()[1]
            watcher.health.watch(near(b"silent", silent, port), 0.0)
            watcher.health.watch(near(b"other", other, port), 3600.0)
            watching = asyncio.get_running_loop().create_task(watcher.health.run())
            async with asyncio.timeout(60):
                await watcher.heard.wait()
            watching.cancel()
            silent.kill()
            other.kill()
        ((node_id, cause),) = watcher.said
        assert node_id == b"silent" and cause.startswith("it answered none of 2 health checks")

    asyncio.run(scenario())


@pytest.mark.parametrize(("configured", "near"), [(0.1, 0.2), (0.5, 1.0), (0.8, 1.0), (3.0, 3.0)])
def test_a_near_node_reports_half_as_often_but_each_second(configured: float, near: float) -> None:
    assert near_report_period_s(configured) == near
