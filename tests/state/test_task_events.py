"""What the cluster knows of single tasks: lists, summaries, the timeline."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import command
from support.stopping import stand_still

import nbray
from nbray.driver import output
from nbray.driver.driver import current_core
from nbray.exceptions import NbrayError, TaskError, WorkerCrashedError
from nbray.state import queries
from nbray.state.trace import chrome_trace
from nbray.testing import wait_until
from nbray.util import state


@nbray.remote
def short(number: int) -> int:
    return number


@nbray.remote
def fails() -> None:
    raise ValueError("no good")


@nbray.remote
def hold(path: str) -> int:
    while not os.path.exists(path):
        time.sleep(0.01)
    return os.getpid()


@nbray.remote
class Counter:
    def count(self, number: int) -> int:
        return number


def test_a_task_that_has_ended_is_listed_at_once_with_where_and_when(cluster: Path) -> None:
    before = time.time() * 1000
    output.set_origin(7)
    try:
        pid = nbray.get(nbray.remote(os.getpid).options(name="whoami").remote(), timeout=30)
    finally:
        output.set_origin(0)
    after = time.time() * 1000
    (task,) = state.list_tasks(filters=[("name", "=", "whoami")], detail=True)
    assert (task.state, task.type, task.attempt_number) == ("FINISHED", "NORMAL_TASK", 0)
    assert (task.worker_pid, task.origin, task.error_type) == (pid, 7, None)
    assert task.node_id == state.list_nodes()[0].node_id
    assert task.start_time_ms is not None and task.end_time_ms is not None
    assert before - 50 <= task.start_time_ms <= task.end_time_ms <= after + 50
    assert state.get_task(task.task_id, address="auto") == task
    assert [t.task_id for t in state.list_tasks(filters=[("origin", "=", 7)])] == [task.task_id]
    assert state.list_tasks(filters=[("origin", "=", 8)]) == []
    (bare,) = state.list_tasks()
    assert bare.start_time_ms is None, "a detail, and details were not asked for"


def test_unfinished_tasks_tell_how_far_they_are(cluster: Path) -> None:
    release = str(cluster / "release")
    running = [hold.remote(release) for _ in range(2)]
    waiting = [hold.options(name="waits").remote(release) for _ in range(3)]
    needy = short.remote(running[0])
    wait_until(
        lambda: len(state.list_tasks(filters=[("state", "=", "RUNNING")])) == 2, "two to run"
    )
    states = {row.task_id: row.state for row in state.list_tasks()}
    assert [states[ref.task_id().hex()] for ref in waiting] == ["PENDING_NODE_ASSIGNMENT"] * 3
    assert states[needy.task_id().hex()] == "PENDING_ARGS_AVAIL"
    task = state.get_task(running[0].task_id().hex())
    assert state.get_task(running[0]) == task
    assert isinstance(task, state.TaskState)
    assert task.start_time_ms is not None and task.creation_time_ms is not None
    assert task.end_time_ms is None and task.required_resources == {"CPU": 1}
    assert [event["state"] for event in task.events or ()] == ["PENDING_ARGS_AVAIL", "RUNNING"]
    Path(release).touch()
    pids = set(nbray.get([*running, *waiting, needy], timeout=30))
    assert task.worker_pid in pids
    os.unlink(release)
    assert {row.state for row in state.list_tasks()} == {"FINISHED"}


def test_failures_say_of_what_kind_they_are_and_every_attempt_has_a_row(cluster: Path) -> None:
    with pytest.raises(TaskError):
        nbray.get(fails.options(max_retries=1, retry_exceptions=True).remote(), timeout=30)
    with pytest.raises(WorkerCrashedError):
        nbray.get(nbray.remote(max_retries=0)(os._exit).options(name="crash").remote(3), timeout=30)
    rows = state.list_tasks(filters=[("state", "=", "FAILED")], detail=True)
    assert [(r.name, r.attempt_number, r.error_type) for r in rows] == [
        ("fails", 0, "TASK_EXECUTION_EXCEPTION"),
        ("fails", 1, "TASK_EXECUTION_EXCEPTION"),
        ("crash", 0, "WORKER_DIED"),
    ]
    silent = fails.options(num_returns=0, max_retries=0, name="silent")
    silent.remote()
    wait_until(
        lambda: (
            [r.state for r in state.list_tasks(filters=[("name", "=", "silent")])] == ["FAILED"]
        ),
        "a failure that no ref shows",
    )

    def failures() -> dict[str, int]:
        summary = state.summarize_tasks()["cluster"]["summary"]
        return {name: row["state_counts"].get("FAILED", 0) for name, row in summary.items()}

    wait_until(lambda: failures().get("fails") == 2 and failures().get("crash") == 1, "the counts")
    assert "no good" in (rows[0].error_message or "")
    assert "exit status 3" in (rows[2].error_message or "")


def test_calls_and_constructors_of_actors_are_tasks_too(cluster: Path) -> None:
    actor = Counter.remote()
    nbray.get([actor.count.remote(n) for n in range(3)], timeout=30)
    rows = state.list_tasks(detail=True)
    assert [(r.type, r.name) for r in rows] == [
        ("ACTOR_CREATION_TASK", "Counter.__init__"),
        *[("ACTOR_TASK", "Counter.count")] * 3,
    ]
    assert len({r.worker_pid for r in rows}) == 1
    assert {r.actor_id for r in rows} == {state.list_actors()[0].actor_id}


def test_of_many_short_tasks_some_are_listed_and_all_are_counted(
    monkeypatch: pytest.MonkeyPatch, session_root: Path
) -> None:
    monkeypatch.setenv("NBRAY_TASK_EVENTS_PER_S", "100")
    nbray.init(num_cpus=2)
    nbray.get([short.remote(n) for n in range(3000)], timeout=60)
    assert len(state.list_tasks(limit=10_000, filters=[("name", "=", "short")])) < 3000

    def counts() -> dict[str, int]:
        summary = state.summarize_tasks()["cluster"]["summary"]
        return {name: row["state_counts"].get("FINISHED", 0) for name, row in summary.items()}

    wait_until(lambda: counts().get("short") == 3000, "all to be counted")


def test_the_timeline_is_a_chrome_trace_with_a_row_for_each_worker(cluster: Path) -> None:
    @nbray.remote
    def sleeps(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    pids = nbray.get([sleeps.remote(0.2) for _ in range(4)], timeout=30)
    actor = Counter.remote()
    nbray.get(actor.count.remote(1), timeout=30)
    path = cluster / "trace.json"
    assert nbray.timeline(filename=str(path)) is None
    events = json.loads(path.read_text())
    path.unlink()
    spans = [e for e in events if e["ph"] == "X" and e["name"].endswith("sleeps")]
    assert len(spans) == 4 and all(0.19e6 < span["dur"] < 10e6 for span in spans)
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert sorted(names[s["tid"]] for s in spans) == sorted(f"worker pid {pid}" for pid in pids)
    assert [e["name"] for e in events if e["cat"] == "actor"] == [
        "Counter.__init__", "Counter.count",
    ]  # fmt: skip


def test_what_overlaps_in_one_worker_gets_rows_of_its_own() -> None:
    def row(name: str, start: float, end: float | None) -> state.TaskState:
        return state.TaskState(
            "00", 0, name, "FINISHED", "01", "aa", "ACTOR_TASK", name, None, "ab" * 28, "cd" * 28,
            5, None, start_time_ms=start, end_time_ms=end,
        )  # fmt: skip

    events = chrome_trace([row("c", 30, None), row("a", 10, 20), row("b", 15, 40)], now_ms=50)
    spans = {e["name"]: (e["tid"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"}
    first, second = spans["a"][0], spans["b"][0]
    assert first != second
    assert spans["c"] == (first, 30_000, 20_000), "what still runs ends now"


def test_objects_tell_who_holds_them_and_why(
    monkeypatch: pytest.MonkeyPatch, session_root: Path
) -> None:
    monkeypatch.setenv("NBRAY_RECORD_REF_CREATION_SITES", "1")
    nbray.init(num_cpus=2, object_store_memory=64 << 20)
    release = str(session_root / "release")

    @nbray.remote
    class Keeper:
        def keep(self, boxed: list[nbray.ObjectRef]) -> None:
            self.boxed = boxed

    large = nbray.put(bytes(2_000_000))
    inner = nbray.put(1)
    outer = nbray.put([inner])
    keeper = Keeper.remote()
    nbray.get(keeper.keep.remote([large]), timeout=30)
    waits = hold.remote(release)
    used = short.remote(waits)

    rows = state.list_objects()
    assert rows[0].object_id == large.hex() and rows[0].object_size >= 2_000_000
    owned = {row.object_id: row for row in rows if row.is_owner}
    assert owned[large.hex()].type == "DRIVER" and owned[large.hex()].pid == os.getpid()
    assert owned[large.hex()].borrowers == 1
    assert Path(__file__).name in owned[large.hex()].call_site
    assert owned[inner.hex()].reference_type == "LOCAL_REFERENCE"
    assert owned[waits.hex()].reference_type == "USED_BY_PENDING_TASK"
    assert owned[used.hex()].task_status == "PENDING_ARGS_AVAIL"
    assert [r.type for r in rows if r.object_id == large.hex() and not r.is_owner] == ["WORKER"]
    assert "ACTOR_HANDLE" in {row.reference_type for row in rows}

    inner_id = inner.hex()
    del inner
    wait_until(
        lambda: state.get_objects(inner_id)[0].reference_type == "CAPTURED_IN_OBJECT", "its box"
    )
    summary = state.summarize_objects()["cluster"]
    assert summary["total_size_mb"] > 1.9 and summary["callsite_enabled"]
    Path(release).touch()
    nbray.get(used, timeout=30)
    os.unlink(release)
    large_id = large.hex()
    del large, keeper
    wait_until(lambda: not state.get_objects(large_id), "the value to end with its last holder")
    del outer


def test_the_command_lists_gets_sums_up_and_traces(cluster: Path) -> None:
    nbray.get([short.remote(n) for n in range(3)], timeout=30)
    actor = Counter.options(name="bob").remote()
    nbray.get(actor.count.remote(1), timeout=30)
    kept = nbray.put(bytes(500_000))

    listed = command("list", "tasks", "-f", "name=short", "--format=json")
    assert listed.returncode == 0, listed.stderr
    tasks = json.loads(listed.stdout)
    assert [task["state"] for task in tasks] == ["FINISHED"] * 3
    table = command("list", "actors", "--filter", "state!=DEAD").stdout
    assert "ALIVE" in table and "bob" in table and "1 actor: 1 ALIVE." in table
    for resource in ("jobs", "nodes", "objects", "workers"):
        assert len(command("list", resource).stdout.splitlines()) >= 2, resource
    assert "There are no such tasks" in command("list", "tasks", "-f", "name=none").stdout

    task = tasks[0]["task_id"]
    assert "start_time_ms: 1" in command("get", "tasks", task).stdout
    missing = command("get", "tasks", "ab" * 24)
    assert missing.returncode == 1 and "has the id abab" in missing.stderr
    refused = command("list", "tasks", "-f", "nope=1")
    assert refused.returncode == 1 and "column nope is not supported" in refused.stderr

    wait_until(lambda: "FINISHED: 3" in command("summary", "tasks").stdout, "the counts")
    assert "ALIVE: 1" in command("summary", "actors").stdout
    assert "LOCAL_REFERENCE" in command("summary", "objects").stdout

    path = cluster / "trace.json"
    assert "5 tasks are in" in command("timeline", f"--output={path}").stdout
    assert sum(event["ph"] == "X" for event in json.loads(path.read_text())) == 5
    path.unlink()

    told = command("memory").stdout
    (line,) = [line for line in told.splitlines() if kept.hex() in line]
    assert f"driver pid {os.getpid()}" in line and Path(__file__).name in line
    assert "Object store of node" in told
    assert Path(__file__).name in command("memory", "--group-by=STACK_TRACE", "--stats-only").stdout


def test_without_a_cluster_the_command_says_so_in_a_line(session_root: Path) -> None:
    failed = command("list", "tasks")
    assert failed.returncode == 1
    assert "No cluster runs here" in failed.stderr


def test_what_a_program_ran_is_remembered_when_it_leaves_at_once(cluster: Path) -> None:
    program = """
import nbray
nbray.init("auto")
@nbray.remote
class Actor:
    def last(self): return 1
@nbray.remote
def work(): return 1
actor = Actor.remote()
nbray.get([actor.last.remote(), work.remote()])
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    ended = {(name, "FINISHED") for name in ("work", "Actor.__init__", "Actor.last")}
    wait_until(
        lambda: {(row.name, row.state) for row in state.list_tasks()} == ended,
        "its tasks to be told",
    )


def test_an_attempt_that_died_with_its_worker_has_a_row(cluster: Path) -> None:
    @nbray.remote(max_retries=1)
    def dies_once(marker: str) -> int:
        if os.path.exists(marker):
            os.unlink(marker)
            os._exit(9)
        return 1

    marker = cluster / "marker"
    marker.touch()
    ref = dies_once.remote(str(marker))
    assert nbray.get(ref, timeout=30) == 1
    rows = state.get_task(ref.task_id().hex())
    assert isinstance(rows, list)
    attempts = sorted((row.attempt_number, row.state, row.error_type) for row in rows)
    assert attempts == [(0, "FAILED", "WORKER_DIED"), (1, "FINISHED", None)]


def test_a_process_that_does_not_answer_is_warned_of_and_its_task_is_listed(cluster: Path) -> None:
    release = str(cluster / "release")
    ref = hold.remote(release)
    task_id = ref.task_id().hex()

    def task() -> state.TaskState:
        found = state.get_task(task_id)
        assert isinstance(found, state.TaskState)
        return found

    wait_until(lambda: task().state == "RUNNING", "it to run")
    pid = task().worker_pid
    assert pid is not None
    stand_still(pid)
    try:
        with pytest.warns(UserWarning, match=r"1 process\(es\) did not answer"):
            assert task().state == "SUBMITTED_TO_WORKER"
    finally:
        os.kill(pid, signal.SIGCONT)
    Path(release).touch()
    nbray.get(ref, timeout=30)
    os.unlink(release)


def test_what_failed_or_took_long_is_remembered_beyond_many_short_tasks(
    monkeypatch: pytest.MonkeyPatch, session_root: Path
) -> None:
    monkeypatch.setenv("NBRAY_TASK_EVENTS_KEPT", "50")
    nbray.init(num_cpus=2)
    nbray.get(nbray.remote(time.sleep).options(name="long").remote(0.05), timeout=30)
    with pytest.raises(TaskError):
        nbray.get(fails.remote(), timeout=30)
    refs = [short.remote(n) for n in range(500)]
    nbray.get(refs, timeout=30)
    names = [row.name for row in state.list_tasks(limit=10_000)]
    assert len(names) <= 150 and {"long", "fails", "short"} == set(names)


def test_an_impossible_number_of_rows_is_refused_and_harms_nobody(cluster: Path) -> None:
    for query in (queries.tasks(-1), queries.objects(-1)):
        with pytest.raises(NbrayError, match="malformed"):
            current_core().peers.gcs_call(query.method, query.body)
    assert nbray.get(short.remote(1), timeout=30) == 1


def test_a_long_task_tells_who_made_it_and_when_also_after_its_end(cluster: Path) -> None:
    @nbray.remote
    def child() -> None: ...

    @nbray.remote(num_cpus=0.5)
    def parent() -> None:
        nbray.get(child.remote())
        time.sleep(0.02)

    began = time.time() * 1000
    nbray.get(parent.remote(), timeout=30)

    def row(name: str) -> state.TaskState:
        (found,) = state.list_tasks(filters=[("name", "=", name)], detail=True)
        return found

    wait_until(lambda: row("parent").creation_time_ms, "its owner's word")
    made, made_by = row("child"), row("parent")
    assert made.parent_task_id == made_by.task_id and made_by.parent_task_id is None
    assert made_by.creation_time_ms and made_by.start_time_ms and made_by.end_time_ms
    assert began - 1 < made_by.creation_time_ms <= made_by.start_time_ms < made_by.end_time_ms
    assert made_by.required_resources == {"CPU": 0.5}
    assert [one["state"] for one in made_by.events or ()] == [
        "PENDING_ARGS_AVAIL", "RUNNING", "FINISHED",
    ]  # fmt: skip
