"""The GCS is killed, comes back with its tables, and the cluster goes on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from conftest import processes_of, wait_until

import nbray
from nbray.experimental import internal_kv as kv


def command(*args: str) -> subprocess.CompletedProcess[str]:
    """Run ``nbray ARGS``."""
    program = "import sys; sys.argv[0] = 'nbray'; from nbray.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60
    )


def running(root: Path, part: str) -> list[psutil.Process]:
    """The processes of that part of the cluster: "nbray.gcs", "nbray.raylet"."""
    return [process for process in processes_of(root) if part in process.cmdline()]


def kill_gcs(root: Path) -> None:
    """Kill the GCS, waiting for one that is just coming back."""
    wait_until(lambda: running(root, "nbray.gcs"), "a GCS to kill")
    for process in running(root, "nbray.gcs"):
        process.kill()


def test_the_key_value_space_is_rays(cluster: Path) -> None:
    assert kv._internal_kv_put("a", b"1") is False
    assert kv._internal_kv_put("a", "2", overwrite=False) is True
    assert kv._internal_kv_get(b"a") == b"1"
    assert kv._internal_kv_put("a", "2") is True
    assert kv._internal_kv_get("a") == b"2"
    kv._internal_kv_put("ab", b"", namespace="n")
    kv._internal_kv_put("ac", b"3", namespace="n")
    assert sorted(kv._internal_kv_list("a", namespace="n")) == [b"ab", b"ac"]
    assert kv._internal_kv_list("a") == [b"a"]
    kill_gcs(cluster)
    assert kv._internal_kv_exists("ab", namespace=b"n")
    assert kv._internal_kv_del("a", del_by_prefix=True, namespace="n") == 2
    assert not kv._internal_kv_exists("ab", namespace="n")
    assert kv._internal_kv_del("nothing") == 0
    assert kv._internal_kv_get("nothing") is None


def test_running_tasks_never_notice_and_calls_wait(cluster: Path) -> None:
    @nbray.remote(max_retries=0)
    def slow(number: int) -> tuple[int, int]:
        time.sleep(0.02)
        return number, os.getpid()

    refs = [slow.remote(number) for number in range(150)]
    nbray.get(refs[0], timeout=30)
    node_ids = {node["NodeID"] for node in nbray.nodes()}
    kill_gcs(cluster)
    assert {node["NodeID"] for node in nbray.nodes() if node["Alive"]} == node_ids
    assert [number for number, _ in nbray.get(refs, timeout=60)] == list(range(150))
    assert nbray.cluster_resources()["CPU"] == 2


@pytest.fixture
def detached(session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cluster by ``nbray start``, and its session folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    started = command("start", "--head", "--port=0", "--num-cpus=2")
    assert started.returncode == 0, started.stderr
    (session,) = session_root.iterdir()
    return session


def test_a_cluster_whose_gcs_was_killed_is_found_and_stopped_by_the_command(
    detached: Path,
) -> None:
    kill_gcs(detached)
    nbray.init("auto")
    assert nbray.get(nbray.remote(lambda: 42).remote(), timeout=30) == 42
    nbray.shutdown()
    kill_gcs(detached)
    wait_until(lambda: "alive" in command("status").stdout, "the GCS to be back", 30)
    stopped = command("stop")
    assert "Stopped 1 node" in stopped.stdout
    assert not running(detached, "nbray.gcs")


def test_a_head_node_that_crashed_is_brought_back_by_hand(detached: Path) -> None:
    nbray.init("auto")
    kv._internal_kv_put("kept", "yes")
    nbray.shutdown()
    refused = command("start", "--head", f"--session={detached}")
    assert refused.returncode == 1
    assert "runs: its raylet is pid" in refused.stderr
    for name in ("nbray.raylet", "nbray.gcs"):
        for process in running(detached, name):
            process.kill()
    wait_until(lambda: not processes_of(detached), "the workers to leave", 30)
    back = command("start", "--head", "--num-cpus=2", f"--session={detached}")
    assert back.returncode == 0, back.stderr
    nbray.init("auto")
    assert kv._internal_kv_get("kept") == b"yes"
    assert nbray.get(nbray.remote(lambda: 42).remote(), timeout=30) == 42
    nbray.shutdown()
    assert "Stopped 1 node" in command("stop").stdout


def test_stopping_is_quick(cluster: Path) -> None:
    @nbray.remote
    class Waiting:
        def ready(self) -> None:
            return None

    actor = Waiting.remote()
    nbray.get(actor.ready.remote(), timeout=30)
    began = time.monotonic()
    nbray.shutdown()
    assert time.monotonic() - began < 1.5
