"""The GCS is killed, comes back with its tables, and the cluster goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.commands import command
from support.descriptors import no_file_left
from support.processes import kill_gcs, running
from support.stopping import stand_still

import nbray
from nbray.common.config import Config
from nbray.driver.driver import current_core
from nbray.driver.joining import find_session
from nbray.exceptions import ActorDiedError
from nbray.experimental import internal_kv as kv
from nbray.state import asking, client
from nbray.testing import processes_of, wait_until
from nbray.testing.processes import kill_all
from nbray.util.state import list_actors, list_jobs
from nbray.wire import gcs_messages as g


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


def test_figures_are_kept_as_soon_as_there_is_a_place_for_them(cluster: Path) -> None:
    session, info = find_session("auto")
    folder = session.path / "series"
    wait_until((folder / "cluster.series").exists, "the first GCS to keep some")
    folder.rename(session.path / "away")
    folder.touch()  # as a disk that is full
    os.kill(info["pids"][0], signal.SIGKILL)
    log = session.log_path("gcs.log")
    wait_until(lambda: "no figures" in log.read_text(), "the next GCS to find no place")
    folder.unlink()
    wait_until((folder / "cluster.series").exists, "it to keep some")


def test_a_list_that_is_asked_for_meanwhile_comes_within_its_time(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_RAYLET_ANSWERS_S", 0.2)
    asked: list[object] = []

    def ask_once(*question: Any) -> Any:
        asked.append(question)
        return first_way(*question)

    first_way = client.ask_once
    monkeypatch.setattr(client, "ask_once", ask_once)
    (raylet,) = running(cluster, "nbray.raylet")
    with ThreadPoolExecutor(1) as thread:
        with no_file_left(raylet.pid):  # no other can be started
            kill_gcs(cluster)
            jobs = thread.submit(list_jobs)
            wait_until(lambda: len(asked) > 1 or jobs.done(), "it to be asked once more")
        assert len(jobs.result(60)) == 1


def test_what_is_asked_again_of_a_gcs_that_was_killed_is_answered_as_the_first_time(
    cluster: Path,
) -> None:
    def ask(method: str, request: g.KvPut | g.KvDel) -> int:
        answer = current_core().peers.gcs_call(method, msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(answer, type=g.KvCount).count

    kv._internal_kv_put("old/1", b"")
    kv._internal_kv_put("old/2", b"")
    asked = {
        "KvPut": g.KvPut(b"", b"lock", b"mine", overwrite=False),
        "KvDel": g.KvDel(b"", b"old", True),
    }
    assert [ask(*one) for one in asked.items()] == [1, 2]
    assert ask("KvPut", g.KvPut(b"", b"old/3", b"of another")) == 1
    kill_gcs(cluster)
    assert [ask(*one) for one in asked.items()] == [1, 2], "whoever asked had heard no answer"
    assert ask("KvPut", g.KvPut(b"", b"lock", b"yours", overwrite=False)) == 0
    assert kv._internal_kv_get("lock") == b"mine"
    assert kv._internal_kv_get("old/3") == b"of another", "nothing is done twice"


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
        kill_all(running(detached, name))
    wait_until(lambda: not processes_of(detached), "the workers to leave", 30)
    back = command("start", "--head", "--num-cpus=2", f"--session={detached}")
    assert back.returncode == 0, back.stderr
    nbray.init("auto")
    assert kv._internal_kv_get("kept") == b"yes"
    assert nbray.get(nbray.remote(lambda: 42).remote(), timeout=30) == 42
    nbray.shutdown()
    assert "Stopped 1 node" in command("stop").stdout


def test_a_head_that_comes_back_with_another_token_takes_it_and_refuses_the_old_one(
    detached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = json.loads((detached / "session.json").read_text())["gcs_address"]
    kill_all(processes_of(detached))
    wait_until(lambda: not processes_of(detached), "the end of the node", 30)
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", "another token, of twice sixteen characters")
    back = command("start", "--head", "--num-cpus=2", f"--session={detached}")
    assert back.returncode == 0, back.stderr
    joined = command("start", f"--address={address}", "--num-cpus=1")
    assert joined.returncode == 0, joined.stderr
    monkeypatch.delenv("NBRAY_AUTH_TOKEN")
    refused = command("start", f"--address={address}", "--num-cpus=1")
    assert refused.returncode == 1 and "token" in refused.stderr
    assert "Stopped 2 node(s)" in command("stop").stdout


def test_redis_keeps_the_tables_as_well(
    session_root: Path,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    started = command("start", "--head", "--port=0", "--num-cpus=2", "--storage", redis_url)
    assert started.returncode == 0, started.stderr
    try:
        nbray.init("auto", namespace="here")
        actor = Counter.options(name="kept", lifetime="detached").remote()
        assert nbray.get(actor.add.remote(), timeout=30) == 1
        kill_gcs(session_root)
        assert nbray.get(nbray.get_actor("kept").add.remote(), timeout=30) == 2
        nbray.shutdown()
    finally:
        command("stop")


def test_stopping_waits_for_nothing_that_will_not_come(cluster: Path) -> None:
    @nbray.remote
    class Waiting:
        def ready(self) -> None:
            return None

    actor = Waiting.remote()
    nbray.get(actor.ready.remote(), timeout=30)
    began = time.monotonic()
    nbray.shutdown()
    assert time.monotonic() - began < Config().graceful_exit_s / 2, "an actor that waits is ended"


# --- actors ---------------------------------------------------------------------------------


@nbray.remote
class Counter:
    """Says who it is and how often it was asked."""

    def __init__(self, marks: Path | None = None, wait_for: Path | None = None) -> None:
        self.count = 0
        if marks is not None:
            with open(marks, "a") as file:
                file.write(f"{os.getpid()}\n")
        while wait_for is not None and not wait_for.exists():
            time.sleep(0.01)

    def add(self) -> int:
        self.count += 1
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def leave(self) -> None:
        os._exit(1)


def test_actors_names_and_jobs_are_where_they_were(cluster: Path) -> None:
    named = Counter.options(name="kept", namespace="here").remote()
    detached = Counter.options(name="stays", namespace="here", lifetime="detached").remote()
    pids = nbray.get([named.pid.remote(), detached.pid.remote()], timeout=30)
    nbray.kill(Counter.options(name="gone", namespace="here").remote())
    before = {(a.actor_id, a.state, a.pid) for a in list_actors()}
    kill_gcs(cluster)
    assert nbray.get_actor("kept", namespace="here")._actor_id == named._actor_id
    found = nbray.get_actor("stays", namespace="here")
    assert nbray.get([named.pid.remote(), found.pid.remote()], timeout=30) == pids
    with pytest.raises(ValueError, match=r"The name kept .* is already taken"):
        Counter.options(name="kept", namespace="here").remote()
    with pytest.raises(ValueError, match="Failed to look up actor"):
        nbray.get_actor("gone", namespace="here")
    assert {(a.actor_id, a.state, a.pid) for a in list_actors()} == before
    again = Counter.options(name="gone", namespace="here").remote()
    assert nbray.get(again.add.remote(), timeout=30) == 1
    job_id = nbray.get_runtime_context().get_job_id()
    assert [job.job_id for job in list_jobs() if job.status == "RUNNING"] == [job_id]


def test_an_actor_that_was_being_started_is_started_once(cluster: Path, tmp_path: Path) -> None:
    marks, go = tmp_path / "marks", tmp_path / "go"
    actor = Counter.options(name="slow").remote(marks, go)
    wait_until(marks.exists, "the constructor to begin")
    kill_gcs(cluster)
    wait_until(lambda: nbray.get_actor("slow"), "the GCS to be back")
    kill_gcs(cluster)
    go.touch()
    pid = nbray.get(actor.pid.remote(), timeout=60)
    assert marks.read_text() == f"{pid}\n"


def test_actors_created_while_there_is_no_gcs_are_created(cluster: Path) -> None:
    nbray.get(Counter.remote().add.remote(), timeout=30)
    kill_gcs(cluster)
    actors = [Counter.options(num_cpus=0).remote() for _ in range(3)]
    named = Counter.options(name="late", num_cpus=0).remote()
    assert nbray.get([a.add.remote() for a in [*actors, named]], timeout=60) == [1] * 4
    assert nbray.get(nbray.get_actor("late").add.remote(), timeout=30) == 2


def test_deaths_while_there_was_no_gcs_are_heard_of(cluster: Path) -> None:
    restarted = Counter.options(max_restarts=1, max_task_retries=1).remote()
    mortal = Counter.options(name="mortal").remote()
    pids = nbray.get([restarted.pid.remote(), mortal.pid.remote()], timeout=30)
    (gcs,) = running(cluster, "nbray.gcs")
    stand_still(gcs.pid)  # so that the deaths are reported to nobody
    for pid in pids:
        psutil.Process(pid).kill()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the workers to end")
    gcs.kill()
    assert nbray.get(restarted.pid.remote(), timeout=60) not in pids
    with pytest.raises(ActorDiedError, match="SIGKILL"):
        nbray.get(mortal.pid.remote(), timeout=60)
    wait_until(lambda: not _is_named("mortal"), "the name to be free", 30)


def _is_named(name: str) -> bool:
    try:
        nbray.get_actor(name)
    except ValueError:
        return False
    return True


def test_an_actor_that_is_killed_while_there_is_no_gcs_ends(cluster: Path) -> None:
    actor = Counter.options(name="victim").remote()
    pid = nbray.get(actor.pid.remote(), timeout=30)
    kill_gcs(cluster)
    nbray.kill(actor)
    wait_until(lambda: not psutil.pid_exists(pid), "its process to end", 30)
    wait_until(lambda: not _is_named("victim"), "its name to be free", 30)
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "its CPU to be free", 30)


def test_a_job_whose_driver_went_meanwhile_ends(cluster: Path) -> None:
    program = (
        "import nbray, sys; nbray.init(sys.argv[1], namespace='other')\n"
        "@nbray.remote\n"
        "class A:\n"
        "    def f(self): return 1\n"
        "kept = A.options(name='kept', lifetime='detached').remote()\n"
        "own = A.options(name='own').remote()\n"
        "print(nbray.get([kept.f.remote(), own.f.remote()]), flush=True)\n"
        "sys.stdin.read()\n"
    )
    address = nbray.init(ignore_reinit_error=True)["address"]
    driver = subprocess.Popen(
        [sys.executable, "-c", program, address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stdout is not None
    assert driver.stdout.readline() == "[1, 1]\n"
    kill_gcs(cluster)
    driver.kill()
    driver.communicate()
    wait_until(
        lambda: [job.status for job in list_jobs()].count("RUNNING") == 1, "its job to end", 30
    )
    with pytest.raises(ValueError, match="Failed to look up"):
        nbray.get_actor("own", namespace="other")
    kept = nbray.get_actor("kept", namespace="other")
    assert nbray.get(kept.f.remote(), timeout=30) == 1


# --- whatever happens when ------------------------------------------------------------------


def _workload(cluster: Path, seed: int, kills: int) -> None:
    """Tasks, actors, names and keys against a model, while the GCS is killed ``kills`` times."""
    chance = random.Random(seed)
    square = nbray.remote(max_retries=0, num_cpus=0.5)(lambda number: number * number)
    actors: dict[str, tuple[object, int]] = {}
    keys: dict[str, bytes] = {}
    story: list[str] = []
    victims = threading.Thread(target=_kill_now_and_then, args=(cluster, chance.random(), kills))
    victims.start()
    step = 0
    try:
        while victims.is_alive() or step < 30:
            step += 1
            act = chance.choice(["tasks", "create", "call", "crash", "end", "put", "del", "look"])
            story.append(f"{step} {act}")
            name = chance.choice(sorted(actors)) if actors else ""
            if act == "tasks":
                refs = [square.remote(number) for number in range(20)]
                assert nbray.get(refs, timeout=60) == [number * number for number in range(20)]
            elif act == "create" and len(actors) < 6:
                name = f"a{step}"
                actor = Counter.options(
                    name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1
                ).remote()
                actors[name] = (actor, 0)
            elif act == "call" and name:
                actor, count = actors[name]
                assert nbray.get(actor.add.remote(), timeout=60) == count + 1  # type: ignore[attr-defined]
                actors[name] = (actor, count + 1)
            elif act == "crash" and name:
                actor, _ = actors[name]
                pid = nbray.get(actor.pid.remote(), timeout=60)  # type: ignore[attr-defined]
                os.kill(pid, signal.SIGKILL)
                assert nbray.get(actor.add.remote(), timeout=60) == 1  # type: ignore[attr-defined]
                actors[name] = (actor, 1)
            elif act == "end" and name:
                nbray.kill(actors.pop(name)[0])  # type: ignore[arg-type]
                wait_until(lambda name=name: not _is_named(name), f"{name} to end", 60)  # type: ignore[misc]
            elif act == "put":
                keys[f"k{step % 7}"] = b"%d" % step
                kv._internal_kv_put(f"k{step % 7}", b"%d" % step)
            elif act == "del":
                kv._internal_kv_del(f"k{step % 7}")
                keys.pop(f"k{step % 7}", None)
            else:
                assert sorted(kv._internal_kv_list("")) == sorted(k.encode() for k in keys)
                assert all(kv._internal_kv_get(key) == value for key, value in keys.items())
                for name, (actor, _) in actors.items():
                    assert nbray.get_actor(name)._actor_id == actor._actor_id  # type: ignore[attr-defined]
    except BaseException as error:
        error.add_note(f"seed {seed}, the last steps: {story[-20:]}")
        raise
    finally:
        victims.join()
    alive = [row for row in list_actors() if row.state != "DEAD"]
    assert {row.name for row in alive} == set(actors)
    actors.clear()
    actor = None
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "all CPUs to be free", 60)
    wait_until(lambda: all(a.state == "DEAD" for a in list_actors()), "all actors to end", 60)


def _kill_now_and_then(cluster: Path, seed: float, kills: int) -> None:
    chance = random.Random(seed)
    for _ in range(kills):
        time.sleep(chance.uniform(0.0, 1.2))
        kill_gcs(cluster)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_whatever_happens_when_the_gcs_is_killed_at_random(cluster: Path) -> None:
    seed = int(os.environ.get("NBRAY_TEST_SEED", "7"))
    _workload(cluster, seed, kills=10)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(10))
def test_the_same_for_longer(cluster: Path, seed: int) -> None:
    _workload(cluster, seed, kills=40)
