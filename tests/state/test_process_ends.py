"""How workers, drivers and nodes ended is told by the state API, with Ray's kinds of ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.testing import own_sessions, wait_until
from nbray.util import state
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@nbray.remote(num_cpus=0)
class Actor:
    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        nbray.actor.exit_actor()

    def sleep(self) -> None:
        time.sleep(600)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with own_sessions():
        context = nbray.init(num_cpus=2, include_dashboard=False)
        yield context["address"]


def ended(pid: int) -> state.WorkerState:
    """The row of a process, once it tells of its end."""

    def row() -> state.WorkerState | None:
        rows = state.list_workers(
            detail=True, filters=[("pid", "=", pid), ("is_alive", "=", False)]
        )
        return rows[0] if rows else None

    wait_until(row, f"the end of pid {pid} to be told")
    found = row()
    assert found is not None
    assert found.start_time_ms is not None and found.end_time_ms is not None
    assert 0 < found.start_time_ms <= found.end_time_ms
    return found


def living_actor() -> tuple[nbray.ActorHandle, int]:
    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)
    (row,) = state.list_workers(detail=True, filters=[("pid", "=", pid)])
    assert row.is_alive and row.exit_type is None and row.end_time_ms == 0
    return actor, pid


def test_a_killed_worker_ended_by_a_signal(address: str) -> None:
    _actor, pid = living_actor()
    os.kill(pid, signal.SIGKILL)
    row = ended(pid)
    assert row.exit_type == "SYSTEM_ERROR"
    assert "SIGKILL" in str(row.exit_detail) and "OOM" in str(row.exit_detail)


def test_an_actor_that_left_meant_to(address: str) -> None:
    actor, pid = living_actor()
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(actor.leave.remote(), timeout=30)
    row = ended(pid)
    assert row.exit_type == "INTENDED_USER_EXIT" and "exit_actor" in str(row.exit_detail)


def test_a_killed_actor_was_ended_by_the_system(address: str) -> None:
    actor, pid = living_actor()
    nbray.kill(actor)
    row = ended(pid)
    assert row.exit_type == "INTENDED_SYSTEM_EXIT" and "nbray.kill" in str(row.exit_detail)


def test_a_constructor_that_raises_is_the_users_error(address: str) -> None:
    @nbray.remote(num_cpus=0)
    class Faulty:
        def __init__(self) -> None:
            raise RuntimeError("no luck")

    actor = Faulty.remote()

    def told() -> list[state.WorkerState]:
        rows = state.list_workers(detail=True, filters=[("exit_type", "=", "USER_ERROR")])
        return [row for row in rows if row.actor_id == actor._actor_id.hex()]

    wait_until(told, "the end of the actor's worker to be told")
    (row,) = told()
    assert "exception in the initialization method" in str(row.exit_detail)
    assert "no luck" in str(row.exit_detail)


def test_a_task_cancelled_by_force_ended_its_worker(address: str) -> None:
    @nbray.remote
    def sleep(pids: nbray.ActorHandle) -> None:
        nbray.get(pids.set.remote(os.getpid()))
        time.sleep(600)

    @nbray.remote(num_cpus=0)
    class Pids:
        def __init__(self) -> None:
            self.pid = 0

        def set(self, pid: int) -> None:
            self.pid = pid

        def get(self) -> int:
            return self.pid

    pids = Pids.remote()
    ref = sleep.remote(pids)
    wait_until(lambda: nbray.get(pids.get.remote(), timeout=30), "the task to run")
    nbray.cancel(ref, force=True)
    row = ended(nbray.get(pids.get.remote(), timeout=30))
    assert row.exit_type == "INTENDED_USER_EXIT" and "nbray.cancel" in str(row.exit_detail)


def test_a_task_that_exits_tells_its_code(address: str) -> None:
    @nbray.remote(max_retries=0)
    def leave(code: int) -> None:
        os._exit(code)

    for code, kind in ((4, "SYSTEM_ERROR"), (0, "INTENDED_USER_EXIT")):
        with pytest.raises(nbray.exceptions.WorkerCrashedError):
            nbray.get(leave.remote(code), timeout=30)

        def told(kind: str = kind, code: int = code) -> bool:
            rows = state.list_workers(detail=True, filters=[("exit_type", "=", kind)])
            return any(f"exit code {code}" in str(row.exit_detail) for row in rows)

        wait_until(told, f"the exit code {code} to be told")


def test_a_removed_group_ended_its_actors(address: str) -> None:
    group = nbray.util.placement_group([{"CPU": 1}])
    strategy = PlacementGroupSchedulingStrategy(group)
    actor = Actor.options(scheduling_strategy=strategy).remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)
    nbray.util.remove_placement_group(group)
    row = ended(pid)
    assert row.exit_type == "INTENDED_SYSTEM_EXIT"
    assert "placement group was removed" in str(row.exit_detail)


@pytest.mark.parametrize(
    ("last", "kind", "detail"),
    [
        ("nbray.shutdown()", "INTENDED_USER_EXIT", "nbray.shutdown()"),
        ("os.kill(os.getpid(), 9)", "SYSTEM_ERROR", "killed"),
    ],
)
def test_a_driver_left_or_was_killed(address: str, last: str, kind: str, detail: str) -> None:
    program = f"import nbray, os; nbray.init({address!r}); print(os.getpid(), flush=True); {last}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=60)
    row = ended(int(done.stdout.split()[-1]))
    assert row.worker_type == "DRIVER" and row.exit_type == kind
    assert detail in str(row.exit_detail)


def test_what_lives_is_listed_before_what_ended(address: str) -> None:
    _actor, pid = living_actor()
    os.kill(pid, signal.SIGKILL)
    assert not ended(pid).is_alive
    alive = [row.is_alive for row in state.list_workers(limit=10_000)]
    assert alive == sorted(alive, reverse=True) and not all(alive)


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    nbray.shutdown()
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0})
    yield cluster
    nbray.shutdown()
    cluster.shutdown()


def test_nodes_tell_when_they_came_and_went(nodes: Cluster) -> None:
    def others(kind: str) -> Callable[[], list[state.NodeState]]:
        return lambda: [
            row for row in state.list_nodes(detail=True)
            if row.state == kind and not row.is_head_node and row.node_id == node.node_id
        ]  # fmt: skip

    for graceful in (True, False):
        node = nodes.add_node(num_cpus=0)
        (row,) = others("ALIVE")()
        assert row.start_time_ms and row.end_time_ms == 0
        nodes.remove_node(node, allow_graceful=graceful)
        wait_until(others("DEAD"), "the node's end to be told")
        (row,) = others("DEAD")()
        assert row.end_time_ms and row.start_time_ms and row.end_time_ms >= row.start_time_ms
