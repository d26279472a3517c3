"""What waits says for what: a worker, a constructor, a node that stands still."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from support.nodes import join_here
from support.stopping import stand_still

import nbray
from nbray.driver.driver import current_driver
from nbray.testing import wait_until
from nbray.util.state import list_actors, list_demand


@nbray.remote(num_cpus=0)
class Slow:
    def __init__(self, seconds: float = 1000.0) -> None:
        time.sleep(seconds)


@nbray.remote
def nothing() -> None:
    pass


def reason() -> str:
    """Why the only actor that is not alive yet is not."""
    reasons = [row.pending_reason for row in list_actors() if row.state == "PENDING_CREATION"]
    return (reasons or [""])[0] or ""


def test_an_actor_says_that_its_constructor_runs(cluster: Path) -> None:
    actor = Slow.remote()
    wait_until(lambda: "for its constructor, which runs in worker pid" in reason(), "a reason")
    del actor


def test_an_actor_says_which_resources_it_waits_for(cluster: Path) -> None:
    first = Slow.options(num_cpus=2).remote(0.0)
    nbray.get(first.__ray_ready__.remote())
    actor = Slow.options(num_cpus=2).remote()
    wait_until(lambda: "for resources" in reason() or "lacks" in reason(), "a reason")
    nowhere = Slow.options(num_gpus=3).remote()
    wait_until(
        lambda: any("No node of the cluster" in (r.pending_reason or "") for r in list_actors()),
        "a reason",
    )
    del first, actor, nowhere


def test_what_waits_for_a_worker_that_does_not_start_says_so(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_WORKER_START_TIMEOUT_S", "120")  # else it is in vain after a while
    facts = nbray.init(num_cpus=0, object_store_memory=64 << 20, resources={"place": 4})
    logs = Path(facts["session_dir"]) / "logs"
    logs.rename(logs.with_name("elsewhere"))  # where a worker begins to write
    actor = Slow.options(resources={"place": 1}).remote(0.0)
    task = nothing.options(num_cpus=0, resources={"place": 2}).remote()
    wait_until(lambda: "The last one failed: " in reason(), "the actor's reason")

    def demand() -> dict[str, tuple[dict[str, float], list[str]]]:
        return {row.kind: (row.resources, row.lacking) for row in list_demand()}

    found: dict[str, tuple[dict[str, float], list[str]]] = {}

    def told() -> bool:
        found.update(demand())
        starts = {kind for kind, (_, texts) in found.items() if "are being started" in str(texts)}
        return starts == {"task", "actor"}

    wait_until(told, "the demand")
    assert found["task"][0] == {"place": 2.0}
    assert found["actor"][0] == {"place": 1.0}
    logs.with_name("elsewhere").rename(logs)
    nbray.get([actor.__ray_ready__.remote(), task], timeout=60)


def test_what_waits_on_a_node_that_stands_still_says_so(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = join_here({"far": 2})
    assert current_driver() is not None
    raylet = psutil.Process(node.children[-1].pid)
    stand_still(raylet.pid)  # else it may still start the actor
    try:
        actor = Slow.options(resources={"far": 1}).remote(0.0)
        wait_until(
            lambda: f"Node {node.node_id[:8]} on 127.0.0.1 has been silent" in reason(), "it"
        )
    finally:
        raylet.resume()
    nbray.get(actor.__ray_ready__.remote(), timeout=60)
    node.stop()


def test_what_runs_is_not_counted_as_waiting(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def hold(number: int) -> int:
        while not (tmp_path / str(number)).exists():
            time.sleep(0.02)
        return number

    def waiting() -> int:
        return sum(row.count for row in list_demand())

    refs = [hold.remote(number) for number in range(40)]
    wait_until(lambda: waiting() == 38, "all but the two that run to wait")
    for number in range(10):
        (tmp_path / str(number)).touch()
    nbray.get(refs[:10], timeout=60)
    wait_until(lambda: waiting() == 28, "the next two to be taken off")
    for number in range(10, 40):
        (tmp_path / str(number)).touch()
    nbray.get(refs, timeout=60)
    wait_until(lambda: waiting() == 0, "nothing to wait")
