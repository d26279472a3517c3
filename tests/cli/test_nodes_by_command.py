"""Nodes that the command alone starts, on one machine: work crosses them, and one may die."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.commands import PROGRAM, command

import nbray
from nbray.launcher.found import found_nodes
from nbray.testing import kill_node, processes_of, wait_until
from nbray.util.state import list_nodes

STORE = "--object-store-memory=200000000"


def start(*args: str) -> str:
    """Start a node; returns the address of its cluster."""
    done = command("start", STORE, *args)
    assert done.returncode == 0, done.stderr
    found = re.search(r"cluster (\S+)\.", done.stdout)
    assert found, done.stdout
    return found[1]


@pytest.fixture
def nodes(home: Path, request: pytest.FixtureRequest) -> Any:
    """As many nodes as the test says, each with a resource of its own; the driver on the head."""
    address = start("--head", "--port=0", "--num-cpus=1", '--resources={"n0": 100}')
    try:
        nbray.init(address)
        for number in range(1, request.param):
            start(f"--address={address}", "--num-cpus=1", f'--resources={{"n{number}": 100}}')
        yield address
    finally:
        nbray.shutdown()
        stopped = command("stop")
    assert stopped.returncode == 0, stopped.stderr
    wait_until(lambda: not processes_of(home), "the end of all nodes")


def on(number: int) -> dict[str, dict[str, float]]:
    return {"resources": {f"n{number}": 0.001}}


@nbray.remote
def where(_number: int = 0) -> str:
    return nbray.get_runtime_context().get_node_id()


@nbray.remote
def make(number: int) -> np.ndarray:
    return np.full(3_000_000, float(number))


@nbray.remote
def total(array: np.ndarray) -> tuple[float, str]:
    return float(array.sum()), nbray.get_runtime_context().get_node_id()


@pytest.mark.parametrize("nodes", [2, 3], indirect=True)
def test_tasks_and_large_objects_go_every_way(nodes: str) -> None:
    count = len(nbray.nodes())
    places = nbray.get([where.options(**on(n)).remote() for n in range(count)], timeout=60)
    assert len(set(places)) == count
    for source in range(count):
        array = make.options(**on(source)).remote(source + 1)
        for target in range(count):
            result = nbray.get(total.options(**on(target)).remote(array), timeout=60)
            assert result == (3_000_000.0 * (source + 1), places[target])
        assert float(nbray.get(array, timeout=60).sum()) == 3_000_000.0 * (source + 1)
    put_here = nbray.put(np.ones(3_000_000))
    for target in range(count):
        assert nbray.get(total.options(**on(target)).remote(put_here), timeout=60)[0] == 3_000_000.0
    ids = set(places)

    def is_told() -> bool:
        rows = [row.received_from for row in list_nodes() if row.node_id in ids]
        return all(set(row) <= ids and sum(row.values()) >= 24_000_000 for row in rows)

    wait_until(is_told, "the nodes to tell what they got from whom")


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [2, 3], indirect=True)
def test_a_killed_node_costs_no_result_of_2000_tasks(nodes: str) -> None:
    """The whole node dies at once: the raylet, its template and its workers, by SIGKILL."""

    @nbray.remote
    def numbered(i: int) -> tuple[int, str]:
        time.sleep(0.004)
        return i, nbray.get_runtime_context().get_node_id()

    head = nbray.get_runtime_context().get_node_id()
    infos = {node.session.read_info()["node_id"]: node for node in found_nodes()}
    victim_id = next(node_id for node_id in infos if node_id != head)
    # Each has a worker: else the head's alone may do all before another one has begun.
    nbray.get([where.options(**on(n)).remote() for n in range(len(infos))], timeout=60)
    refs = [numbered.remote(i) for i in range(2000)]
    seen: set[str] = set()
    done, pending = [], refs

    def progress() -> bool:
        nonlocal pending
        ready, pending = nbray.wait(pending, num_returns=1, timeout=30)
        done.extend(ready)
        seen.update(node for _, node in nbray.get(ready, timeout=30))
        return len(done) >= 200 and victim_id in seen

    wait_until(progress, "200 results, and some of the victim", timeout=60)
    assert len(done) < 1800
    (raylet,) = infos[victim_id].processes
    kill_node(raylet)
    results = nbray.get(refs, timeout=90)
    assert [i for i, _ in results] == list(range(2000))
    assert {node for _, node in results} >= {victim_id, head}
    wait_until(
        lambda: [n["NodeID"] for n in nbray.nodes() if not n["Alive"]] == [victim_id],
        "the GCS to notice the death",
    )


# --- starts that cannot be --------------------


def refused(args: list[str], env: dict[str, str]) -> str:
    """The one line that a start which fails says."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "start", *args],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


OTHER = "from nbray.common import software\nsoftware."
ADVICE = "A cluster needs the same version of nbray"


@pytest.mark.timeout(300)  # ten programs, one after the other
@pytest.mark.parametrize("nodes", [1], indirect=True)
def test_who_cannot_join_is_told_why_in_one_line(nodes: str, home: Path, tmp_path: Path) -> None:
    join = [f"--address={nodes}", STORE]
    said = refused(join, {"NBRAY_AUTH_TOKEN": "a guess that is long enough"})
    assert nodes in said and "wrong cluster token" in said
    for other, what in (
        ("VERSION = '9.9.9'", "the caller runs nbray 9.9.9, this cluster nbray "),
        ("PYTHON = (3, 99)", " on Python 3.99, this cluster nbray "),
        ("_WIRE = software._WIRE / 'x'", "the caller runs another build of nbray "),
    ):
        (tmp_path / "sitecustomize.py").write_text(OTHER + other)
        said = refused(join, {"PYTHONPATH": str(tmp_path)})
        assert what in said and ADVICE in said
        for program in (f"nbray.init({nodes!r})", "nbray.util.state.list_nodes()"):
            done = subprocess.run(
                [sys.executable, "-c", f"import nbray, nbray.util.state; {program}"],
                env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
                timeout=60,
            )  # fmt: skip
            last = done.stderr.strip().splitlines()[-1]
            assert done.returncode == 1 and ADVICE in last and "runs " in last, done.stderr
    (head,) = home.iterdir()  # no other session folder is left
    lines = [process.info["cmdline"] for process in processes_of(home)]
    strangers = [line for line in lines if not any(str(head) in part for part in line)]
    assert not strangers, strangers
    assert len([node for node in nbray.nodes() if node["Alive"]]) == 1


def test_more_store_than_memory_is_one_line(home: Path) -> None:
    asked = psutil.virtual_memory().total + (1 << 30)
    said = refused(["--head", "--port=0", f"--object-store-memory={asked}"], {})
    assert f"cannot have {asked} bytes" in said and "Give less by object_store_memory" in said
    assert not processes_of(home)
    assert not list(home.iterdir())
