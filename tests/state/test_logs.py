"""Logs of every node, by the state API and the command ``nbray logs``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.driver.driver import current_driver
from nbray.exceptions import ActorDiedError
from nbray.state.logs import find_worker
from nbray.state.short_ids import full_id
from nbray.testing import wait_until
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
    as_in_ray: list[tuple[list[str], list[str]]] = [
        (["actor", "--id", str(row.actor_id), "--tail", "1"], ["later"]),
        (["actor", "--pid", str(row.pid), "--tail", "1"], ["later"]),
        (["worker", "--pid", str(row.pid), "-id", far, "--tail", "1"], ["later"]),
        (["task", "--id", task_id, "--tail", "1"], ["later"]),
        (["task", "--id", task_id, "-a", "0", "--tail", "1"], ["later"]),
        (["cluster", f"*{row.worker_id[:12]}.out", "-id", far, "--tail", "1"], ["later"]),
        ([f"*{row.worker_id[:12]}.out", "-id", far, "--tail", "1"], ["later"]),
        (["task", "--id", task_id, "-a", "1"], []),
    ]
    for words, lines in as_in_ray:
        shown = subprocess.run([*shell, *words], capture_output=True, text=True)
        assert shown.stdout.splitlines() == lines, (words, shown.stderr)
    assert "attempt 1" in shown.stderr


def test_a_log_is_read_whole_and_without_its_colours(cluster: Path) -> None:
    writer = Writer.options(resources={}).remote()
    lines = [f"\x1b[31mline\x1b[0m {number}" for number in range(2000)]
    nbray.get(writer.write.remote(lines), timeout=60)
    (row,) = state.list_actors()
    whole = "".join(map(str, state.get_log(actor_id=row.actor_id)))
    assert whole.splitlines()[-2000:] == lines
    plain = "".join(map(str, state.get_log(actor_id=row.actor_id, filter_ansi_code=True)))
    assert plain.splitlines()[-2000:] == [f"line {number}" for number in range(2000)]


@nbray.remote(num_cpus=0)
class Doomed:
    def crash(self, text: str) -> None:
        print(text, flush=True)
        os._exit(3)


def test_the_log_of_a_crashed_worker_can_be_asked_for_by_whatever_names_it(cluster: Path) -> None:
    """By its pid, its id, its actor's name or id, each as it is shown."""
    doomed = Doomed.options(name="doomed").remote()
    task = doomed.crash.remote("last words")
    with pytest.raises(ActorDiedError):
        nbray.get(task, timeout=60)
    wait_until(lambda: state.list_workers(filters=[("exit_type", "=", "SYSTEM_ERROR")]), "its end")
    (worker,) = state.list_workers(filters=[("exit_type", "=", "SYSTEM_ERROR")])
    (actor,) = state.list_actors()
    asked: list[dict[str, Any]] = [
        {"pid": worker.pid}, {"worker_id": worker.worker_id[:8]}, {"actor_id": actor.actor_id[:8]},
        {"task_id": task.task_id().hex()},
    ]  # fmt: skip
    for words in asked:
        assert "".join(map(str, state.get_log(**words))) == "last words\n", words
    shell = [sys.executable, "-c", "from nbray.cli import main; main()", "logs"]
    for name in (str(worker.pid), "doomed", actor.actor_id[:12]):
        shown = subprocess.run([*shell, name], capture_output=True, text=True)
        assert shown.stdout == "last words\n", shown.stderr
        found = find_worker(name)
        assert found is not None and found.worker_id == worker.worker_id


def test_an_id_may_be_written_as_it_begins_and_must_mean_one(cluster: Path) -> None:
    nbray.get([Writer.options(resources={}).remote().write.remote([]) for _ in range(2)])
    task_id = nbray.get(nbray.remote(lambda: nbray.get_runtime_context().get_task_id()).remote())
    value = nbray.put(1)
    known: list[tuple[Callable[[str], Any], str, str]] = [
        (state.get_node, "node_id", state.list_nodes()[0].node_id),
        (state.get_worker, "worker_id", state.list_workers()[0].worker_id),
        (state.get_actor, "actor_id", state.list_actors()[0].actor_id),
        (state.get_job, "job_id", state.list_jobs()[0].job_id),
    ]
    for get, column, full in known:
        for written in (full, full[:8], full[:12], full[:12].upper()):
            assert getattr(get(written), column) == full
        assert get("f" * len(full)) is None
        with pytest.raises(state.StateApiException, match="is not the id of such a thing"):
            get(full + "00")
    wait_until(lambda: state.get_task(task_id[:40]), "the task's row")
    assert state.get_objects(value.hex()[:40])[0].object_id == value.hex()
    get = [sys.executable, "-c", "from nbray.cli import main; main()", "get"]
    shown = subprocess.run([*get, "nodes", known[0][2][:8]], capture_output=True, text=True)
    assert known[0][2] in shown.stdout, shown.stderr
    ids = ["abcd" + "0" * 52, "abcd" + "1" * 52]
    assert full_id("abcd0", ids) == ids[0]
    with pytest.raises(state.StateApiException, match=r"beginning of 2 ids: abcd0.*, abcd1"):
        full_id("abcd", ids)


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


def test_a_character_that_two_parts_share_is_whole(cluster: Path) -> None:
    driver = current_driver()
    assert driver is not None
    text = "x" + "ä" * (3 << 19)
    driver.core.session.log_path("odd.log").write_text(text, encoding="utf-8")
    for all_of_it in (-1, 1 << 31, 1 << 70):
        assert "".join(map(str, state.get_log(filename="odd.log", tail=all_of_it))) == text


def test_a_log_that_grows_while_it_is_read_is_read_to_where_it_ended(cluster: Path) -> None:
    driver = current_driver()
    assert driver is not None
    log = driver.core.session.log_path("growing.log")
    log.write_bytes(b"x\n" * (1 << 20))
    parts = state.get_log(filename="growing.log", tail=-1, encoding=None)
    seen = 0
    for part in parts:
        seen += len(part)
        assert seen <= 2 << 20
        with log.open("ab") as file:
            file.write(b"y\n" * (1 << 20))
    assert seen == 2 << 20
