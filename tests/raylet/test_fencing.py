"""A node that was cut off from the GCS comes back, or is declared dead and leaves, never both."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.nodes import join_here
from support.stopping import stand_still

import nbray
from nbray.common.config import Config
from nbray.common.own_time import OwnTime
from nbray.driver.driver import current_driver
from nbray.driver.joining import find_session
from nbray.gcs.nodes.health import NodeHealth
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.testing import JumpingClock, processes_of, wait_until
from nbray.util.state import StateApiException, list_actors, list_nodes, list_workers
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.records import NodeInfo

SHORT = {"PERIOD_S": "0.4", "TIMEOUT_S": "0.4", "FAILURE_THRESHOLD": "3"}


@pytest.fixture
def other(
    session_root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[RunningNode]:
    """A node beside the head, with the resource "far", and a GCS of little patience.

    A parameter says how many health checks it may leave unanswered, if not three.
    """
    for name, value in SHORT.items():
        monkeypatch.setenv(f"NBRAY_HEALTH_CHECK_{name}", value)
    if hasattr(request, "param"):
        monkeypatch.setenv("NBRAY_HEALTH_CHECK_FAILURE_THRESHOLD", str(request.param))
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = join_here({"far": 1})
    yield node
    node.stop()


def alive() -> set[str]:
    return {node["NodeID"] for node in nbray.nodes() if node["Alive"]}


def cause_of_death(node: RunningNode) -> str:
    (row,) = [row for row in list_nodes() if row.node_id == node.node_id]
    return row.state_message or ""


@nbray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Where:
    """Says where it is, and leaves a mark wherever it begins."""

    def __init__(self, marks: Path) -> None:
        with open(marks, "a") as file:
            file.write(f"{os.getpid()}\n")

    def node(self) -> str:
        return nbray.get_runtime_context().get_node_id()


def test_a_node_that_was_away_too_long_is_dead_and_leaves(
    other: RunningNode, tmp_path: Path
) -> None:
    actor = Where.options(resources={"far": 0.0001}).remote(tmp_path / "marks")
    assert nbray.get(actor.node.remote(), timeout=30) == other.node_id
    raylet = psutil.Process(other.children[-1].pid)
    raylet.suspend()
    wait_until(lambda: other.node_id not in alive(), "the node to be declared dead", 30)
    raylet.resume()
    wait_until(lambda: raylet.status() == psutil.STATUS_ZOMBIE, "its raylet to leave", 30)
    wait_until(lambda: not processes_of(other.session.path), "its workers to leave", 30)
    assert other.node_id not in alive()
    assert "declared this node dead" in other.session.log_path("raylet.log").read_text()


@pytest.mark.parametrize("other", [30], indirect=True)  # a moment may be long on a busy machine
def test_a_node_that_was_away_for_a_moment_comes_back(other: RunningNode, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    actor = Where.options(resources={"far": 0.0001}).remote(marks)
    nbray.get(actor.node.remote(), timeout=30)
    raylet = psutil.Process(other.children[-1].pid)
    stand_still(raylet.pid)
    time.sleep(1.5)  # in which it is asked for the first time
    raylet.resume()
    assert nbray.get(actor.node.remote(), timeout=30) == other.node_id
    assert other.node_id in alive()
    assert len(marks.read_text().split()) == 1


def test_a_gcs_that_stood_still_declares_nobody_dead(
    other: RunningNode, session_root: Path
) -> None:
    before = alive()
    (gcs,) = [p for p in processes_of(session_root) if "nbray.gcs" in p.info["cmdline"]]
    gcs.suspend()
    time.sleep(3.5)  # longer than a node may be silent
    gcs.resume()
    assert alive() == before
    time.sleep(1.0)  # two looks at the health of nodes
    assert alive() == before


def test_a_node_that_died_while_there_was_no_gcs_is_dead_when_it_is_back(
    other: RunningNode, session_root: Path, tmp_path: Path
) -> None:
    actor = Where.options(resources={"far": 0.0001}, name="far").remote(tmp_path / "marks")
    nbray.get(actor.node.remote(), timeout=30)
    (gcs,) = [p for p in processes_of(session_root) if "nbray.gcs" in p.info["cmdline"]]
    gcs.suspend()
    psutil.Process(other.children[-1].pid).kill()
    gcs.kill()
    wait_until(lambda: other.node_id not in alive(), "the node to be declared dead", 30)
    assert "has ended" in cause_of_death(other)
    assert len(alive()) == 1
    assert nbray.get_actor("far")._actor_id == actor._actor_id


def test_a_raylet_that_has_ended_is_known_at_once(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = join_here()
    raylet = psutil.Process(node.children[-1].pid)
    raylet.kill()
    wait_until(lambda: node.node_id not in alive(), "the node to be dead")
    assert cause_of_death(node) == f"its raylet, pid {raylet.pid}, has ended"
    node.stop()


def test_the_last_node_is_never_dead_by_a_clock(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SHORT.items():
        monkeypatch.setenv(f"NBRAY_HEALTH_CHECK_{name}", value)
    facts = nbray.init(num_cpus=1, object_store_memory=64 << 20)
    actor = Where.options(max_restarts=0).remote(Path(os.devnull))
    node = nbray.get(actor.node.remote())
    value = nbray.put(b"x" * 1_000_000)
    raylet = psutil.Process(current_driver().node.children[1].pid)
    log = Path(facts["session_dir"]) / "logs" / "gcs.log"
    raylet.suspend()
    wait_until(lambda: "It is not declared dead" in log.read_text(), "the GCS to lose patience")
    raylet.resume()
    assert nbray.get(actor.node.remote(), timeout=30) == node
    assert nbray.get(nbray.remote(len).remote(value), timeout=30) == 1_000_000


def test_the_head_node_outlives_its_silence_beside_others(other: RunningNode) -> None:
    head = alive() - {other.node_id}
    facts = current_driver().node
    log = facts.session.log_path("gcs.log")
    raylet = psutil.Process(facts.children[1].pid)
    raylet.suspend()
    wait_until(lambda: "It is not declared dead" in log.read_text(), "the GCS to lose patience")
    raylet.resume()
    assert alive() == head | {other.node_id}


@pytest.mark.slow
def test_a_node_that_stands_still_is_named_and_the_others_answer(
    session_root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = join_here()
    raylet = psutil.Process(node.children[-1].pid)
    raylet.suspend()
    try:
        wait_until(lambda: "silent for" in cause_of_death(node), "the GCS to notice")
        with pytest.raises(StateApiException, match=node.node_id):
            list_workers()

        def kinds() -> set[str]:
            return {row.worker_type for row in list_workers(raise_on_missing_output=False)}

        wait_until(lambda: kinds() == {"DRIVER", "WORKER"}, "the workers of the other node")
        monkeypatch.setenv("COLUMNS", "200")
        subprocess.run([sys.executable, "-c", STATUS, facts["address"]], check=True, timeout=90)
        assert "silent for" in capfd.readouterr().out
        assert node.node_id in alive()
    finally:
        raylet.resume()
        node.stop()


def test_a_driver_whose_raylet_stands_still_asks_the_gcs(cluster: Path) -> None:
    raylet = psutil.Process(current_driver().node.children[1].pid)
    raylet.suspend()
    try:
        (node,) = list_nodes()
        assert node.state == "ALIVE"
    finally:
        raylet.resume()


STATUS = """
import sys
from nbray.cli import main
sys.argv = ["nbray", "status", "--address", sys.argv[1]]
main()
"""


async def _deaths(config: Config, rows: list[NodeInfo]) -> list[tuple[bytes, str]]:
    """What a watcher says of nodes on other machines until it has said something."""
    said: list[tuple[bytes, str]] = []
    heard = asyncio.Event()

    async def on_dead(node_id: bytes, cause: str) -> None:
        said.append((node_id, cause))
        heard.set()

    token = b"t" * 32
    health = NodeHealth(config, lambda n: GrpcClient(f"{n.host}:{n.grpc_port}", token), on_dead)
    for row in rows:
        health.watch(row, 0.0)
    watching = asyncio.get_running_loop().create_task(health.run())
    async with asyncio.timeout(30):
        await heard.wait()
    watching.cancel()
    return said


def test_where_nothing_listens_any_more_a_raylet_has_ended() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports = [silent.getsockname()[1], free.getsockname()[1]]
            rows = [
                NodeInfo(bytes([n]), "127.0.0.1", 0, port, "", False, True, {}, {})
                for n, port in enumerate(ports)
            ]
            ((node_id, cause),) = await _deaths(Config(), rows)
            assert node_id == bytes([1])
            assert cause == f"its raylet has ended: nothing listens at 127.0.0.1:{ports[1]}"

    asyncio.run(scenario())


def test_a_node_that_answers_no_health_check_is_dead() -> None:
    async def scenario() -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as one,
            socket.create_server(("127.0.0.1", 0)) as two,
        ):
            rows = [
                NodeInfo(bytes([n]), "127.0.0.1", 0, s.getsockname()[1], "", False, True, {}, {})
                for n, s in enumerate((one, two))
            ]
            config = Config(
                health_check_period_s=0.2, health_check_timeout_s=0.2,
                health_check_failure_threshold=3,
            )  # fmt: skip
            said = await _deaths(config, rows)
            assert "it answered none of 3 health checks" in said[0][1]
            assert len(said) == 1  # the other one is the last

    asyncio.run(scenario())


def test_a_killed_actor_begins_anew_only_when_its_process_has_ended(
    session_root: Path, tmp_path: Path
) -> None:
    facts = nbray.init(num_cpus=1, object_store_memory=64 << 20)
    head, info = find_session(facts["address"])
    nodes = [
        join(
            info["gcs_address"],
            NodeOptions({"CPU": 1, "far": 1}, object_store_memory=64 << 20), token=head.token,
            fate_shared=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    marks = tmp_path / "marks"
    actor = Where.options(resources={"far": 1}).remote(marks)
    where = nbray.get(actor.node.remote(), timeout=30)
    (home,) = [node for node in nodes if node.node_id == where]
    process = psutil.Process(int(marks.read_text()))
    raylet = psutil.Process(home.children[-1].pid)
    stand_still(raylet.pid)  # else it may still end the actor
    nbray.kill(actor, no_restart=False)
    wait_until(lambda: "RESTARTING" in {row.state for row in list_actors()}, "the kill")
    time.sleep(1)  # in which another node could have made it
    assert process.is_running() and len(marks.read_text().split()) == 1
    raylet.resume()
    wait_until(lambda: len(marks.read_text().split()) == 2, "the next process")
    wait_until(lambda: not process.is_running(), "the end of the first")
    for node in nodes:
        node.stop()


def test_a_clock_of_ones_own_counts_no_pause() -> None:
    clock = JumpingClock()
    own = OwnTime(0.05, clock)
    before = own.now()
    clock.jump(0.02)
    assert own.now() - before == pytest.approx(0.02)
    clock.jump(3600.0)
    assert own.now() - before == pytest.approx(0.07)
