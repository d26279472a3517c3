"""Logs of every node, by the state API and the command ``nbray logs``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until

import nbray
from nbray.cluster_utils import Cluster
from nbray.util import state


@pytest.fixture
def far(session_root: Path) -> Iterator[str]:
    """A cluster of two nodes; the id of the second."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nbray.init(address=cluster.address)
        node = cluster.add_node(num_cpus=1, resources={"far": 1})
        cluster.wait_for_nodes()
        yield node.node_id if isinstance(node.node_id, str) else node.node_id.hex()
    finally:
        nbray.shutdown()
        cluster.shutdown()


@nbray.remote(resources={"far": 0.1}, num_cpus=0)
class Writer:
    def write(self, lines: list[str]) -> str:
        print("\n".join(lines), flush=True)
        return nbray.get_runtime_context().get_task_id() or ""


def test_logs_of_all_nodes_can_be_listed_and_read(far: str) -> None:
    writer = Writer.remote()
    task_id = nbray.get(writer.write.remote([f"line {n}" for n in range(50)]), timeout=60)
    (row,) = state.list_actors(detail=True)
    assert row.node_id == far

    kinds = state.list_logs(node_id=far)
    assert {"raylet", "worker_out", "worker_err"} <= kinds.keys()
    assert "gcs_server" in state.list_logs() and "gcs_server" not in kinds
    assert list(state.list_logs(node_id=far, glob_filter="raylet*")) == ["raylet"]

    def written(tail: int = 1000) -> list[str]:
        return "".join(state.get_log(actor_id=row.actor_id, tail=tail)).splitlines()  # type: ignore[arg-type]

    wait_until(lambda: len(written()) >= 50, "what the actor printed")
    assert written(3) == ["line 47", "line 48", "line 49"]
    assert written(0) == [] and len(written(-1)) >= 50
    by_pid = "".join(state.get_log(node_id=far, pid=row.pid, tail=1))  # type: ignore[arg-type]
    assert by_pid == "line 49\n"
    wait_until(lambda: state.get_task(task_id), "the task's row")
    assert b"".join(state.get_log(task_id=task_id, tail=1, encoding=None)) == b"line 49\n"  # type: ignore[arg-type]

    pieces = state.get_log(actor_id=row.actor_id, tail=1, follow=True)
    assert next(pieces) == "line 49\n"
    nbray.get(writer.write.remote(["later"]), timeout=60)
    assert next(pieces) == "later\n"

    shell = [sys.executable, "-c", "from nbray.cli import main; main()", "logs"]
    listed = subprocess.run([*shell, "--node-id", far], capture_output=True, text=True)
    assert "raylet:\n  raylet.log\n" in listed.stdout, listed.stderr
    shown = subprocess.run(
        [*shell, "--actor-id", row.actor_id, "--tail", "2"], capture_output=True, text=True
    )
    assert shown.stdout == "line 49\nlater\n", shown.stderr


def test_what_is_not_there_is_said(cluster: Path) -> None:
    for asked, text in [
        ({}, "Which log"),
        ({"filename": "nope.log"}, "has no log 'nope.log'"),
        ({"filename": "../session.json"}, "has no log '../session.json'"),
        ({"pid": 1}, "No worker is known for pid 1"),
        ({"filename": "raylet.log", "node_id": "ab"}, "No node that is alive has the id ab"),
        ({"pid": 1, "suffix": "x"}, "there is no 'x'"),
    ]:
        with pytest.raises(state.StateApiException, match=text):
            list(state.get_log(**asked))  # type: ignore[arg-type]
