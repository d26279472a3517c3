"""A node that was cut off from the GCS comes back, or is declared dead and leaves, never both."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import processes_of, wait_until

import nbray
from nbray.driver import find_session
from nbray.launcher.local import RunningNode, join


@pytest.fixture
def other(session_root: Path) -> Iterator[RunningNode]:
    """A node beside the head, with the resource "far"."""
    facts = nbray.init(num_cpus=1, object_store_memory=64 << 20)
    head, info = find_session(facts["address"])
    node = join(
        info["gcs_address"], resources={"CPU": 1, "far": 1}, token=head.token,
        object_store_memory=64 << 20, fate_shared=True,
    )  # fmt: skip
    yield node
    node.stop()


def alive() -> set[str]:
    return {node["NodeID"] for node in nbray.nodes() if node["Alive"]}


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


def test_a_node_that_was_away_for_a_moment_comes_back(other: RunningNode, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    actor = Where.options(resources={"far": 0.0001}).remote(marks)
    nbray.get(actor.node.remote(), timeout=30)
    raylet = psutil.Process(other.children[-1].pid)
    raylet.suspend()
    time.sleep(1.5)  # half of what the GCS grants
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
    time.sleep(4.5)  # longer than a node may be silent
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
    assert len(alive()) == 1
    assert nbray.get_actor("far")._actor_id == actor._actor_id
