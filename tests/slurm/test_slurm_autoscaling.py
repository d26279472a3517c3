"""Clusters that grow and shrink by jobs of a real Slurm."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import command
from support.slurm import Slurm

import nbray
from nbray.autoscaler.providers.base import TYPE_LABEL
from nbray.testing import Gate, processes_of, wait_until

# Several waits for the start or the end of a job, each of which is seconds of work.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Start = Callable[..., None]
NUMBERS = itertools.count()
IDLE_S = 3


@pytest.fixture
def start(
    slurm: Slurm, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Start]:
    """Starts a head without CPUs, and an autoscaler with jobs; this program joins."""
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NBRAY_AUTOSCALER_UPDATE_INTERVAL_S", "0.5")
    monkeypatch.setenv("NBRAY_HEALTH_CHECK_PERIOD_S", "1")
    monkeypatch.setenv("NBRAY_HEALTH_CHECK_FAILURE_THRESHOLD", "3")

    def begin(least: int, most: int, **provider: Any) -> None:
        file = tmp_path / "cluster.yaml"
        file.write_text(json.dumps({
            "cluster_name": f"scaled{next(NUMBERS)}", "idle_timeout_minutes": IDLE_S / 60,
            "provider": {"type": "slurm", **provider}, "upscaling_speed": 10,
            "available_node_types": {"job": {
                "resources": {"CPU": 2, "object_store_memory": 80 << 20},
                "min_workers": least, "max_workers": most,
            }},
        }))  # fmt: skip
        done = command("start", "--head", "--port=0", "--num-cpus=0", "--include-dashboard=false",
                       "--object-store-memory=100MB", f"--autoscaling-config={file}")  # fmt: skip
        found = re.search(r"cluster (\S+)\.", done.stdout)
        assert found, done.stderr
        nbray.init(found[1])

    yield begin
    nbray.shutdown()
    assert command("stop").returncode == 0
    wait_until(lambda: not slurm.jobs(), "the end of all jobs", 60)
    wait_until(lambda: not processes_of(home), "the end of all nodes", 60)
    for session in home.iterdir():  # of a node that was killed
        shutil.rmtree(session)


def jobs_alive() -> set[str]:
    return {n["NodeID"] for n in nbray.nodes() if n["Alive"] and TYPE_LABEL in n["Labels"]}


@nbray.remote(num_cpus=2)
def where(gate: Gate | None = None) -> str:
    if gate:
        gate.wait_here()
    return nbray.get_runtime_context().get_node_id()


def test_no_node_becomes_two_with_the_work_and_none_again(
    slurm: Slurm, start: Start, tmp_path: Path
) -> None:
    start(0, 2)
    assert not jobs_alive()
    gate = Gate(tmp_path, 90)
    refs = [where.remote(gate) for _ in range(2)]
    gate.wait_for(2)
    assert len(slurm.jobs()) == 2
    gate.open()
    assert len(set(nbray.get(refs, timeout=60))) == 2
    wait_until(lambda: not jobs_alive(), "the end of idle nodes", 60)
    wait_until(lambda: not slurm.jobs(), "the end of their jobs", 60)
    assert command("status").returncode == 0


def test_a_node_whose_walltime_comes_is_drained_and_replaced_before(
    slurm: Slurm, start: Start, tmp_path: Path
) -> None:
    start(1, 2, walltime="20")
    wait_until(lambda: len(jobs_alive()) == 1, "a node", 60)
    (first,) = jobs_alive()
    value = nbray.put(b"x")
    gate = Gate(tmp_path, 90)
    long = where.remote(gate)
    gate.wait_for(1)
    slurm.run("scontrol", "update", f"JobId={slurm.jobs()[0].split()[0]}", "TimeLimit=2")
    wait_until(lambda: jobs_alive() - {first}, "the node that replaces it", 60)
    gate.open()
    assert nbray.get(long, timeout=60) in ({first} | jobs_alive())
    wait_until(lambda: first not in jobs_alive(), "the end of the first", 90)
    assert nbray.get(where.remote(), timeout=60) in jobs_alive()
    assert nbray.get(value) == b"x"
    assert len(jobs_alive()) == 1


def test_a_node_of_slurm_that_goes_down_is_replaced_and_its_task_runs_again(
    slurm: Slurm, start: Start, tmp_path: Path
) -> None:
    start(1, 1)
    wait_until(lambda: len(jobs_alive()) == 1, "a node", 60)
    (first,) = jobs_alive()
    gate = Gate(tmp_path, 90)
    ref = where.remote(gate)
    gate.wait_for(1)
    running = slurm.run("squeue", "-h", "-t", "R", "-o", "%N").stdout.strip()
    number = int(running.removeprefix("sn"))
    slurm.kill_node(number)
    gate.open()
    try:
        assert nbray.get(ref, timeout=100) != first
        assert first not in jobs_alive()
    finally:
        slurm.start_node(number)
        wait_until(lambda: slurm.idle() >= 2, "the node of Slurm", 60)


def test_a_job_that_is_cancelled_by_hand_is_replaced(slurm: Slurm, start: Start) -> None:
    start(1, 1)
    wait_until(lambda: len(jobs_alive()) == 1, "a node", 60)
    (first,) = jobs_alive()
    slurm.run("scancel", slurm.jobs()[0].split()[0])
    wait_until(lambda: len(jobs_alive() - {first}) == 1, "another node", 90)
