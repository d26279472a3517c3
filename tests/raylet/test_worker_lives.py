"""How workers begin and end: many at once, without their template, and with all their children."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter as Counted
from collections.abc import Callable
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import psutil
import pytest
from support.processes import have_ended, template_of
from support.stopping import stand_still

import nbray
from nbray.common.config import Config
from nbray.common.json_lines import JsonLines
from nbray.common.pids import kill_sessions, open_process, start_time
from nbray.common.session import Session
from nbray.core_worker.current import joined_core
from nbray.driver.driver import current_driver
from nbray.exceptions import ActorDiedError, NbraySystemError, WorkerCrashedError
from nbray.raylet.workers.templates import Template
from nbray.testing import processes_of, wait_until


def template_here() -> psutil.Process:
    return template_of(psutil.Process(current_driver().node.children[1].pid))


def free_cpus() -> float:
    return nbray.available_resources().get("CPU", 0.0)


@nbray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n

    def pid(self) -> int:
        return os.getpid()


@nbray.remote
def pid() -> int:
    return os.getpid()


# --- they begin --------------------


@pytest.mark.slow
def test_two_hundred_actors_at_once_all_start(cluster: Path) -> None:
    counters = [Counter.remote() for _ in range(200)]
    assert nbray.get([counter.add.remote() for counter in counters], timeout=100) == [1] * 200


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_actors_at_once_all_start(cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Small:  # travels by value: a worker that imports this module has pytest, and 12 MB more
        def one(self) -> int:
            return 1

    actors = [Small.remote() for _ in range(1000)]
    assert nbray.get([actor.one.remote() for actor in actors], timeout=280) == [1] * 1000


@pytest.mark.slow
def test_workers_that_cannot_start_give_everything_back_and_say_why(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_WORKER_START_TIMEOUT_S", "2")
    facts = nbray.init(num_cpus=0, object_store_memory=64 << 20, resources={"place": 3})
    logs = Path(facts["session_dir"]) / "logs"
    logs.rename(logs.with_name("elsewhere"))  # where a worker begins to write
    counters = [Counter.options(resources={"place": 1}).remote() for _ in range(3)]
    for counter in counters:
        with pytest.raises(ActorDiedError, match="No worker could be started"):
            nbray.get(counter.add.remote(), timeout=60)
    with pytest.raises(NbraySystemError, match="No worker could be started"):
        nbray.get(pid.options(num_cpus=0, resources={"place": 3}).remote(), timeout=60)
    logs.with_name("elsewhere").rename(logs)
    assert nbray.get(pid.options(num_cpus=0, resources={"place": 3}).remote(), timeout=60)


# --- built before the fork --------------------


def test_the_rehearsal_of_a_template_leaves_nothing_behind(cluster: Path) -> None:
    assert nbray.get(Counter.remote().add.remote()) == 1
    template = template_here()
    assert template.num_threads() == 1
    kinds = Counted[str]()
    for file in Path(f"/proc/{template.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it forks, and opens a log for that
            kinds[os.readlink(file)] += 1
    assert (kinds["anon_inode:[eventpoll]"], kinds["anon_inode:[eventfd]"]) == (1, 1)
    (session,) = [folder for folder in cluster.iterdir() if (folder / "sockets").is_dir()]
    assert not list((session / "sockets").glob("r-*"))
    assert "rehearsal" not in (session / "logs" / "template.log").read_text()


def test_a_worker_has_the_settings_of_its_environment_and_not_of_its_template(
    cluster: Path,
) -> None:
    env = {"env_vars": {"NBRAY_MAX_INLINE_BYTES": "11"}}
    ids = {
        nbray.get(settings.options(runtime_env=env).remote(), timeout=60),
        nbray.get(settings.remote(), timeout=60),
    }
    assert {most for most, _worker_id in ids} == {11, Config().max_inline_bytes}
    assert len({worker_id for _most, worker_id in ids}) == 2


@nbray.remote
def settings() -> tuple[int, str]:
    core = joined_core()
    return core.config.max_inline_bytes, nbray.get_runtime_context().get_worker_id()


def test_while_actors_begin_workers_for_the_next_ones_are_started(cluster: Path) -> None:
    counters = [Counter.remote() for _ in range(3)]
    assert nbray.get([counter.add.remote() for counter in counters]) == [1] * 3
    template = template_here()
    cpus = int(nbray.cluster_resources()["CPU"])
    wait_until(lambda: len(template.children()) >= 3 + min(4, cpus), "the next to be ready")


# --- without a template --------------------


def test_a_dead_template_ends_no_actor_and_is_followed_by_another(cluster: Path) -> None:
    counter = Counter.remote()
    assert nbray.get(counter.add.remote()) == 1
    template_here().kill()
    assert nbray.get([Counter.remote().add.remote() for _ in range(8)], timeout=60) == [1] * 8
    assert nbray.get(counter.add.remote()) == 2
    old = nbray.get(counter.pid.remote())
    os.kill(old, signal.SIGKILL)  # nobody is its parent any more
    with pytest.raises(ActorDiedError):
        nbray.get(counter.add.remote(), timeout=60)


def test_a_template_that_is_killed_again_and_again_ends_no_node(cluster: Path) -> None:
    """As the kernel kills one when memory is short; what comes up at last is used."""
    counter = Counter.remote()
    assert nbray.get(counter.add.remote()) == 1
    raylet = psutil.Process(current_driver().node.children[1].pid)
    others = [Counter.remote().add.remote() for _ in range(8)]
    killed = template_of(raylet)
    killed.kill()
    for _ in range(5):
        killed = template_of(raylet, killed.pid)
        killed.kill()
    other = nbray.remote(lambda: 2).options(runtime_env={"env_vars": {"A": "1"}})
    assert nbray.get([*others, other.remote()], timeout=60) == [1] * 8 + [2]
    assert nbray.get(counter.add.remote()) == 2


def test_a_worker_that_dies_while_its_template_stands_still_is_dead(cluster: Path) -> None:
    counter = Counter.options(num_cpus=1).remote()
    worker = nbray.get(counter.pid.remote())
    template = template_here()
    stand_still(template.pid)
    try:
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ActorDiedError):
            nbray.get(counter.add.remote(), timeout=60)
        wait_until(lambda: free_cpus() == 2.0, "its CPU to be free")
        env = {"env_vars": {"LONG": "x" * 100_000}}  # so that their orders fill the socket
        waiting = [Counter.options(runtime_env=env).remote() for _ in range(8)]
    finally:
        template.resume()
    assert nbray.get([one.add.remote() for one in waiting], timeout=60) == [1] * 8


@pytest.mark.slow
def test_a_template_that_never_forks_is_replaced(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next template has as long, on a machine that may be busy.
    monkeypatch.setenv("NBRAY_WORKER_REGISTER_TIMEOUT_S", "10")
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    counter = Counter.remote()
    assert nbray.get(counter.add.remote()) == 1
    template_here().suspend()
    assert nbray.get([Counter.remote().add.remote() for _ in range(4)], timeout=60) == [1] * 4
    assert nbray.get(counter.add.remote()) == 2


def test_a_template_that_tells_much_while_the_raylet_stands_still_waits_for_nobody(
    cluster: Path,
) -> None:
    actors = [Counter.remote() for _ in range(20)]
    pids = nbray.get([actor.pid.remote() for actor in actors], timeout=60)
    raylet = psutil.Process(current_driver().node.children[1].pid)
    stand_still(raylet.pid)
    for worker in pids:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: not any(map(psutil.pid_exists, pids)), "their ends to be seen")
    raylet.resume()
    for actor in actors:
        with pytest.raises(ActorDiedError, match="SIGKILL"):
            nbray.get(actor.add.remote(), timeout=60)


# --- they end --------------------

SLEEPS = [sys.executable, "-c", "import time; time.sleep(1000)"]


@nbray.remote(num_cpus=0)
class Parent:
    """Has a child by `subprocess`, one with a process group of its own, and one that is a fork."""

    def children(self) -> list[int]:
        import multiprocessing
        import time

        fork = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        fork.start()
        plain = subprocess.Popen(SLEEPS)
        group = subprocess.Popen(SLEEPS, process_group=0)
        return [fork.pid or 0, plain.pid, group.pid]

    def crash(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def shut_down(_parent: list[nbray.actor.ActorHandle]) -> None:
    nbray.shutdown()


def kill_the_raylet(_parent: list[nbray.actor.ActorHandle]) -> None:
    psutil.Process(current_driver().node.children[1].pid).kill()


def kill_raylet_and_template(_parent: list[nbray.actor.ActorHandle]) -> None:
    raylet = psutil.Process(current_driver().node.children[1].pid)
    template = template_of(raylet)
    stand_still(raylet.pid)
    template.kill()
    raylet.kill()


def kill_template_then_actor(parent: list[nbray.actor.ActorHandle]) -> None:
    template_of(psutil.Process(current_driver().node.children[1].pid)).kill()
    nbray.kill(parent.pop())


ENDS = {
    "nbray.kill": lambda parent: nbray.kill(parent.pop()),
    "out of scope": lambda parent: parent.clear(),
    "a crash": lambda parent: parent.pop().crash.remote(),
    "shutdown": shut_down,
    "the raylet is killed": kill_the_raylet,
    "raylet and template are killed": kill_raylet_and_template,
    "nbray.kill without a template": kill_template_then_actor,
}


@pytest.mark.parametrize("end", ENDS.values(), ids=list(ENDS))
def test_the_children_of_a_worker_end_with_it(
    cluster: Path, end: Callable[[list[nbray.actor.ActorHandle]], object]
) -> None:
    parent = [Parent.remote()]
    children = nbray.get(parent[0].children.remote(), timeout=30)
    assert not have_ended(children[:1])
    end(parent)
    wait_until(lambda: have_ended(children), "the end of the children")


def test_the_children_of_a_worker_end_while_its_template_stands_still(cluster: Path) -> None:
    parent = Parent.remote()
    children = nbray.get(parent.children.remote(), timeout=30)
    raylet = psutil.Process(current_driver().node.children[1].pid)
    template = template_of(raylet)
    stand_still(template.pid)
    try:
        raylet.kill()
        wait_until(lambda: have_ended(children), "the end of the children")
    finally:
        template.resume()


def test_the_children_of_a_task_live_as_long_as_its_worker(cluster: Path) -> None:
    @nbray.remote
    def start() -> tuple[int, int]:
        return os.getpid(), subprocess.Popen(SLEEPS).pid

    worker, child = nbray.get(start.remote())
    assert not have_ended([child])
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: have_ended([child]), "the end of the child")


def test_nobody_elses_process_is_ended() -> None:
    mine = subprocess.Popen(SLEEPS, start_new_session=True)
    child = subprocess.Popen(SLEEPS)  # of this session
    try:
        began = start_time(mine.pid)
        assert open_process(mine.pid, began + 1) is None  # a pid that has a new owner
        descriptor = open_process(mine.pid, began)
        assert descriptor is not None
        os.close(descriptor)
        kill_sessions({mine.pid: began + 1})
        assert mine.poll() is None
        kill_sessions({mine.pid: began})
        assert mine.wait(10) == -signal.SIGKILL
        assert child.poll() is None
        assert start_time(mine.pid) == 0
        assert open_process(mine.pid, began) is None
    finally:
        mine.kill()
        child.kill()
        child.wait()


@nbray.remote(num_cpus=0)
class Sharing:
    """Makes what lies in /dev/shm until Python's tracker removes it."""

    def __init__(self) -> None:
        self.lock = multiprocessing.get_context("spawn").Lock()
        self.block = SharedMemory(create=True, size=1 << 20)

    def names(self) -> list[str]:
        return [f"sem.{self.lock._semlock.name.strip('/')}", self.block.name]  # type: ignore[attr-defined]

    def leave(self) -> None:
        os._exit(3)


@pytest.mark.parametrize("end", ["killed", "by itself", "with the cluster"])
def test_what_a_worker_shared_by_multiprocessing_goes_with_it(cluster: Path, end: str) -> None:
    actor = Sharing.remote()
    shared = [Path("/dev/shm", name) for name in nbray.get(actor.names.remote(), timeout=60)]
    assert all(path.exists() for path in shared)
    if end == "killed":
        nbray.kill(actor)
    elif end == "by itself":
        actor.leave.remote()
    else:
        nbray.shutdown()
    wait_until(lambda: not any(path.exists() for path in shared), "the tracker to remove them")


def test_no_process_of_a_cluster_outlives_it(cluster: Path) -> None:
    nbray.get([pid.remote() for _ in range(4)])
    assert processes_of(cluster)
    nbray.shutdown()
    assert not processes_of(cluster)


def test_more_actors_live_than_a_shell_lets_a_program_open_files(session_root: Path) -> None:
    program = """
import nbray, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
nbray.init("local", num_cpus=2, object_store_memory=64 << 20)
@nbray.remote(num_cpus=0)
class One:
    def add(self): return 1
print(sum(nbray.get([one.add.remote() for one in [One.remote() for _ in range(70)]])))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100
    )
    assert done.stdout == "70\n", done.stderr


@pytest.mark.slow
def test_a_node_that_can_open_no_more_files_says_so_and_serves_whom_it_has(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_WORKER_START_TIMEOUT_S", "10")
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = current_driver().node
    raylet = psutil.Process(node.children[1].pid)
    limits = raylet.rlimit(resource.RLIMIT_NOFILE)
    raylet.rlimit(resource.RLIMIT_NOFILE, (raylet.num_fds() + 60, limits[1]))
    counters = [Counter.remote() for _ in range(40)]
    living = []
    for counter, answer in [(one, one.add.remote()) for one in counters]:
        try:
            assert nbray.get(answer, timeout=60) == 1
        except ActorDiedError as error:
            assert "ulimit -n" in str(error)
        else:
            living.append(counter)
    assert 10 <= len(living) < 40
    assert nbray.get([one.add.remote() for one in living], timeout=60) == [2] * len(living)
    assert "Too many open files" not in node.session.log_path("raylet.log").read_text()
    for one in living[:10]:
        nbray.kill(one)
    assert nbray.get(Counter.remote().add.remote(), timeout=60) == 1


def test_neither_side_of_a_control_socket_waits_for_the_other() -> None:
    ends = [JsonLines(sock) for sock in socket.socketpair()]
    messages = [{"number": number, "text": "\udc80" * 5000} for number in range(100)]
    for end in ends:
        for message in messages:
            end.send(message)  # more than the socket takes, and nobody reads
    assert all(end.is_waiting for end in ends)
    received: list[list[dict[str, object]]] = [[], []]
    while any(len(got) < len(messages) for got in received):
        for end, got in zip(ends, received, strict=True):
            got += end.receive() or []
            end.flush()
    assert received == [messages, messages]
    ends[0].socket.close()
    ends[1].send(messages[0])
    assert ends[1].receive() is None
    ends[1].socket.close()


def test_the_story_of_a_death_quotes_nothing_of_what_ran_there_before(session_root: Path) -> None:
    @nbray.remote
    def warn() -> int:
        print("an old warning", file=sys.stderr, flush=True)
        while not (session_root / "seen").exists():
            time.sleep(0.02)
        return os.getpid()

    @nbray.remote(max_retries=0)
    def die(text: str) -> None:
        print(text, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    nbray.init(num_cpus=1)
    ref = warn.remote()
    wait_until(lambda: free_cpus() == 0, "the worker to be taken")
    (session_root / "seen").touch()
    worker = nbray.get(ref)
    wait_until(lambda: free_cpus() == 1, "the worker to be given back")
    (session_root / "seen").unlink()
    with pytest.raises(WorkerCrashedError) as caught:
        nbray.get(die.remote("the cause"))
    story = str(caught.value)
    assert f"worker pid {worker} " in story and "; its last lines of stderr:\nthe cause" in story
    assert "old warning" not in story


# --- a template ends before it serves --------------------


def order_and_stop(monkeypatch: pytest.MonkeyPatch, root: Path, pause: float) -> psutil.Process:
    """A template that is told to fork a worker, and is ended after ``pause`` seconds."""
    monkeypatch.setenv("NBRAY_TMPDIR", str(root))
    session = Session.create()
    log = str(session.log_path("worker-0"))
    order = {
        "raylet": "/none", "host": "127.0.0.1", "env": "", "env_vars": {}, "working_dir": "",
        "sys_path": [],
    }  # fmt: skip

    async def run() -> psutil.Process:
        template = Template(session, "", lambda *_: None, lambda *_: None)
        process = psutil.Process(template.pid)
        template.fork(order | {"fork": "00" * 28, "log": log})
        await asyncio.sleep(pause)
        template.stop()
        return process

    return asyncio.run(run())


def test_a_template_that_only_imports_is_ended_at_once_and_forks_nothing(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = order_and_stop(monkeypatch, session_root, 0.0)
    assert not template.is_running()
    assert not list(session_root.glob("*/logs/worker-*"))
    (session,) = session_root.iterdir()
    Session(session).remove()


@pytest.mark.slow
def test_whenever_a_template_is_ended_no_fork_of_it_is_left(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(24):
        order_and_stop(monkeypatch, session_root, 0.05 * number)
        wait_until(lambda: not processes_of(session_root), "the end of all forks")
        for session in session_root.iterdir():
            Session(session).remove()
