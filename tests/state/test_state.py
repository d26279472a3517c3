"""What a cluster tells of itself: rows with Ray's names, what waits and why, what failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import WorkerCrashedError
from nbray.state.rows import NodeState
from nbray.state.selecting import select
from nbray.testing import wait_until
from nbray.util import state


@nbray.remote
class Counter:
    def pid(self) -> int:
        return os.getpid()

    def crash(self) -> None:
        os._exit(3)


def test_nodes_workers_actors_and_jobs_are_listed_with_rays_fields(cluster: Path) -> None:
    actor = Counter.options(name="bob").remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)

    (node,) = state.list_nodes()
    assert (node.state, node.is_head_node) == ("ALIVE", True)
    assert node.resources_total["CPU"] == 2 and node.labels
    assert state.get_node(node.node_id) is not None

    workers = state.list_workers()
    assert {w.pid for w in workers if w.worker_type == "DRIVER"} == {os.getpid()}
    (worker,) = [w for w in workers if w.pid == pid]
    assert worker.activity == "ACTOR"
    found = state.get_worker(worker.worker_id)
    assert found is not None and found.start_time_ms is not None

    (row,) = state.list_actors(filters=[("state", "=", "ALIVE")])
    assert (row.class_name, row.name, row.pid) == ("Counter", "bob", pid)
    assert row.num_restarts is None, "a detail, and details were not asked for"
    assert row["state"] == row.state and row.get("nope", 3) == 3
    with pytest.raises(KeyError):
        _ = row["nope"]
    detailed = state.get_actor(row.actor_id)
    assert detailed is not None and detailed.num_restarts == 0
    assert state.list_actors(filters=[("name", "!=", "bob")]) == []
    summary = state.summarize_actors()["cluster"]
    assert summary["summary"]["Counter"]["state_counts"] == {"ALIVE": 1}

    (job,) = state.list_jobs(detail=True)
    assert job.status == "RUNNING" and job.driver_info.pid == str(os.getpid())
    assert job.start_time is not None and job.end_time is None


def test_an_ended_job_is_kept_with_its_end_and_is_no_failure(cluster: Path) -> None:
    program = "import nbray, os; nbray.init('auto'); nbray.get(nbray.remote(os.getpid).remote())"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    def ended() -> list[state.JobState]:
        return state.list_jobs(filters=[("status", "=", "SUCCEEDED")], detail=True)

    wait_until(ended, "the program's job to be told as ended")
    (job,) = ended()
    assert job.end_time is not None and job.start_time is not None
    assert job.end_time >= job.start_time
    wait_until(
        lambda: not any(w.job_id == job.job_id for w in state.list_workers() if w.is_alive),
        "the workers of the job to end",
    )
    assert state.list_failures() == []


def test_what_cannot_be_served_is_told_with_the_node_that_lacks_least(cluster: Path) -> None:
    refs = [nbray.remote(os.getpid).options(num_cpus=64).remote() for _ in range(3)]
    actor = Counter.options(num_gpus=5).remote()
    wait_until(lambda: len(state.list_demand()) == 2, "both shapes to be reported")
    by_kind = {row.kind: row for row in state.list_demand()}
    assert by_kind["task"].resources == {"CPU": 64}
    assert "which lacks {'CPU': 62.0}" in (by_kind["task"].reason or "")
    assert "which lacks {'GPU': 5.0}" in (by_kind["actor"].reason or "")
    del refs, actor


def test_demand_that_only_waits_for_its_turn_has_no_reason_but_says_what_is_lacking(
    cluster: Path,
) -> None:
    @nbray.remote
    def hold(path: str) -> None:
        while not os.path.exists(path):
            continue

    release = cluster / "release"
    refs = [hold.remote(str(release)) for _ in range(6)]
    wait_until(lambda: bool(state.list_demand()), "tasks to wait")
    assert [row.reason for row in state.list_demand()] == [None]

    def lacking() -> str:
        return " ".join(text for row in state.list_demand() for text in row.lacking)

    wait_until(lambda: "could serve {'CPU': 1.0}, but lacks {'CPU': 1.0} now" in lacking(), "why")
    release.touch()
    nbray.get(refs, timeout=30)
    release.unlink()
    wait_until(lambda: not state.list_demand(), "nothing to wait any more")


def test_workers_and_actors_that_died_unmeant_are_told_with_their_cause(cluster: Path) -> None:
    with pytest.raises(WorkerCrashedError):
        nbray.get(nbray.remote(max_retries=0)(lambda: os._exit(7)).remote(), timeout=30)
    actor = Counter.remote()
    actor.crash.remote()
    killed = Counter.remote()
    nbray.get(killed.pid.remote(), timeout=30)
    nbray.kill(killed)
    wait_until(lambda: len(state.list_failures()) >= 3, "the failures to be told")
    causes = {row.kind: row.cause for row in state.list_failures()}
    assert "exit status 3" in causes["actor"]
    assert any("exit status 7" in row.cause for row in state.list_failures())
    assert not any("SIGKILL" in row.cause for row in state.list_failures()), "a kill is meant"


def test_without_a_driver_the_newest_cluster_is_asked(cluster: Path) -> None:
    from nbray.core_worker.current import find_core, set_core

    core = find_core()
    set_core(None)
    try:
        assert [node.state for node in state.list_nodes()] == ["ALIVE"]
    finally:
        set_core(core)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": [("nope", "=", 1)]}, "filter column nope is not supported"),
        ({"filters": [("state", ">", 1)]}, "filter predicate > is given"),
        ({"limit": 10_001}, "exceeds the supported limit 10000"),
        ({"limit": 0}, "must be positive"),
    ],
)
def test_impossible_questions_are_refused(arguments: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"filters": None, "limit": 1, "detail": False, **arguments}
    with pytest.raises(state.RayStateApiException, match=message):
        select(NodeState, [], **given)


def test_an_id_that_is_none_is_refused() -> None:
    with pytest.raises(state.StateApiException, match="is not the id"):
        state.get_actor("00")


def test_questions_are_asked_as_in_ray(cluster: Path) -> None:
    nodes = state.list_nodes(filters=[("STATE", "=", "alive")])
    assert len(nodes) == 1 and set(nodes[0].asdict()) == state.NodeState.columns()
    for text, count in (("true", 1), ("1", 1), (True, 1), ("0", 0), (False, 0)):
        heads = state.list_nodes(filters=[("is_head_node", "=", text)])
        assert len(heads) == count, text
    for wrong in ([("state", ">", "x")], [("nope", "=", "x")], ["state"], [("state", "=")]):
        with pytest.raises(ValueError):
            state.list_nodes(filters=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exceeds"):
        state.list_nodes(limit=10_001)
    columns = state.ActorState.columns()
    assert state.ActorState.base_columns() == columns - state.ActorState.detail_columns()

    groups = [nbray.util.placement_group([{"CPU": 0.001}]) for _ in range(3)]
    assert all(group.wait(20) for group in groups)
    with pytest.warns(UserWarning, match=r"1 \(3 total\) rows are returned"):
        state.list_placement_groups(limit=1, _explain=True)


def test_actors_and_their_calls_show_themselves(cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Shown:
        def __repr__(self) -> str:
            return "one of them"

        def call(self) -> None: ...

    @nbray.remote(num_cpus=0)
    class Plain:
        def call(self) -> None: ...

    group = nbray.util.placement_group([{"CPU": 1}])
    shown = Shown.options(placement_group=group, runtime_env={"env_vars": {"A": "1"}}).remote()
    plain = Plain.remote()
    nbray.get([shown.call.remote(), plain.call.remote()], timeout=40)
    nbray.get(plain.call.options(name="mine").remote(), timeout=40)

    def call(actor: nbray.ActorHandle, name: str) -> state.TaskState | None:
        filters = [("actor_id", "=", actor._actor_id.hex()), ("name", "=", name)]
        rows = state.list_tasks(filters=filters)  # type: ignore[arg-type]
        return rows[0] if rows else None

    for actor, name, function in (
        (shown, "one of them.call", "Shown.call"),
        (plain, "Plain.call", "Plain.call"),
        (plain, "mine", "Plain.call"),
    ):
        wait_until(lambda actor=actor, name=name: call(actor, name), f"the call {name}")
        row = call(actor, name)
        assert row is not None and row.func_or_class_name == function
    found = state.get_actor(shown._actor_id.hex())
    assert found is not None and found.repr_name == "one of them" and found.name == ""
    assert found.placement_group_id == group.id.hex()
    assert '"A"' in str(found.serialized_runtime_env)
    other = state.get_actor(plain._actor_id.hex())
    assert other is not None and other.repr_name == "" and other.placement_group_id is None


def test_calls_in_an_actors_queue_are_told_as_in_ray(cluster: Path, tmp_path: Path) -> None:
    del cluster

    @nbray.remote(num_cpus=0)
    class Slow:
        def sleep(self, until: str) -> None:
            while not os.path.exists(until):
                time.sleep(0.05)

    end = tmp_path / "end"
    slow = Slow.remote()
    calls = [slow.sleep.remote(str(end)) for _ in range(3)]

    def states() -> list[str]:
        rows = state.list_tasks(filters=[("name", "=", "Slow.sleep")])
        return sorted(row.state for row in rows)

    waits = "PENDING_ACTOR_TASK_ORDERING_OR_CONCURRENCY"
    wait_until(lambda: states() == [waits, waits, "RUNNING"], "two calls to wait for the third")
    summary = state.summarize_tasks()["cluster"]["summary"]["Slow.sleep"]["state_counts"]
    assert summary == {waits: 2, "RUNNING": 1}
    wait_until(
        lambda: state.summarize_tasks()["cluster"]["total_actor_scheduled"] == 1,
        "the actor to be counted, as in Ray",
    )
    made = state.summarize_tasks()["cluster"]["summary"]["Slow.__init__"]
    assert made["type"] == "ACTOR_CREATION_TASK" and made["state_counts"] == {"FINISHED": 1}
    end.touch()
    nbray.get(calls, timeout=40)


def test_what_is_no_number_and_no_text_is_said_by_its_name(cluster: Path) -> None:
    said = (TypeError, ValueError, state.StateApiException)
    odds: list[Any] = ["", "10", "\ud800", b"x", float("nan"), 1e30, True, None, object()]
    asks: list[tuple[str, Callable[[Any], object]]] = [
        ("limit", lambda odd: state.list_tasks(limit=odd)),
        ("limit", lambda odd: state.list_nodes(limit=odd)),
        ("tail", lambda odd: [*state.get_log(filename="raylet.log", tail=odd)]),
        (" id", state.get_actor),
        (" id", state.get_task),
    ]
    for odd in odds:
        for what, ask in asks:
            with pytest.raises(said, match=what):
                ask(odd)
        if odd in (1e30, True, None):
            assert state.list_nodes(timeout=odd), "as many seconds, or no limit"
            continue
        with pytest.raises(said, match="A timeout is a number of seconds"):
            state.list_nodes(timeout=odd)


def test_names_of_logs_are_text(cluster: Path) -> None:
    odds: list[Any] = [1, b"raylet.log", "\ud800", ""]
    for odd in odds:
        with pytest.raises((TypeError, ValueError), match="The name of a log"):
            next(state.get_log(filename=odd))
