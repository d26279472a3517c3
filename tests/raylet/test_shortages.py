"""A raylet that has no descriptor left for a moment, or no time: afterwards all is as before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import random
import signal
import socket
import threading
import time
from pathlib import Path
from typing import cast

import psutil
import pytest
from support.descriptors import no_file_left
from support.no_threads import no_thread_left
from support.processes import have_ended, template_of
from support.stopping import stand_still

import nbray
from nbray.common import background, process
from nbray.common.json_lines import JsonLines
from nbray.common.process import spawn
from nbray.core_worker.current import joined_core
from nbray.driver.joining import find_session
from nbray.raylet.beside.supervisors import Supervisors
from nbray.raylet.jobs import Jobs
from nbray.testing import wait_until
from nbray.util.state import list_actors
from nbray.wire.connections import Direct
from nbray.wire.gcs_messages import Empty, JobId
from nbray.wire.grpc_service import GrpcClient
from nbray.wire.handshake import ClientHandshake
from nbray.wire.records import Address, JobConfig


def raylet_here() -> psutil.Process:
    return psutil.Process(find_session("auto")[1]["pids"][1])


def log_has(text: str, name: str = "raylet.log") -> bool:
    session = joined_core().session
    return text in session.log_path(name).read_text()


def are_being_started(least: int = 1) -> bool:
    reasons = [row.pending_reason or "" for row in list_actors()]
    return sum("being started" in reason for reason in reasons) >= least


@nbray.remote(num_cpus=0)
class Pid:
    def get(self) -> int:
        return os.getpid()


@pytest.mark.parametrize("parent", ["tells", "stands still"])
def test_an_actor_whose_process_ended_meanwhile_has_another(cluster: Path, parent: str) -> None:
    @nbray.remote(max_restarts=1, max_task_retries=1)
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=60)
    raylet = raylet_here()
    template = template_of(raylet)
    if parent == "stands still":
        stand_still(template.pid)
    with no_file_left(raylet.pid):
        os.kill(pid, signal.SIGKILL)
        wanted = ".err is not read" if parent == "tells" else "left is not ended yet"
        wait_until(lambda: log_has(wanted), "the raylet to look in vain")
    template.resume()
    assert nbray.get(actor.pid.remote(), timeout=60) != pid


def test_who_waits_for_a_template_that_was_killed_meanwhile_gets_a_worker(cluster: Path) -> None:
    raylet = raylet_here()
    template = template_of(raylet)
    stand_still(template.pid)
    actors = [Pid.remote() for _ in range(6)]  # more than there are workers for
    answers = [actor.get.remote() for actor in actors]
    wait_until(are_being_started, "one of them to wait for a worker")
    with no_file_left(raylet.pid):
        template.kill()
        wait_until(lambda: log_has("template.log is not read"), "its end to be heard")
    assert len(set(nbray.get(answers, timeout=60))) == 6


def test_workers_whose_template_was_killed_before_they_could_be_watched_are_not_waited_for(
    cluster: Path,
) -> None:
    raylet = raylet_here()
    template = template_of(raylet)
    stand_still(template.pid)
    actors = [Pid.remote() for _ in range(32)]
    wait_until(lambda: are_being_started(24), "most of them to wait for workers")
    with no_file_left(raylet.pid):
        template.resume()
        wait_until(lambda: log_has("is not watched yet"), "some to be forked")
        template.kill()
        wait_until(lambda: log_has("template.log is not read"), "its end to be heard")
    answers = [actor.get.remote() for actor in actors]
    assert len(set(nbray.get(answers, timeout=60))) == 32


def test_a_worker_without_a_template_that_ends_meanwhile_is_made_again(
    cluster: Path,
) -> None:
    @nbray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    raylet = raylet_here()
    actors = [Actor.remote() for _ in range(6)]
    pids = nbray.get([actor.pid.remote() for actor in actors], timeout=60)
    with no_file_left(raylet.pid):
        template_of(raylet).kill()
        wait_until(lambda: log_has("template.log is not read"), "its end to be heard")
        os.kill(pids[0], signal.SIGKILL)
    assert nbray.get(actors[0].pid.remote(), timeout=60) != pids[0]


def test_a_template_that_can_open_no_file_goes_on_and_tells_of_ends_later(cluster: Path) -> None:
    @nbray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    template = template_of(raylet_here())
    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=60)
    with no_file_left(template.pid):
        others = [Pid.remote() for _ in range(6)]  # more than there are workers for
        wait_until(lambda: log_has("began is not known", "template.log"), "some to be forked")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: log_has("are not told yet", "template.log"), "an end to be seen")
    answers = [one.get.remote() for one in others]
    assert nbray.get(actor.pid.remote(), timeout=60) != pid
    assert len(set(nbray.get(answers, timeout=60))) == 6
    assert template_of(raylet_here()).pid == template.pid


def test_a_worker_that_can_open_no_file_ends_with_raylet_and_template(cluster: Path) -> None:
    actor = Pid.remote()
    pid = nbray.get(actor.get.remote(), timeout=60)
    raylet = raylet_here()
    with no_file_left(pid):
        template_of(raylet).kill()
        raylet.kill()
        wait_until(lambda: have_ended([pid]), "the worker to leave")


def test_what_is_free_is_told_also_while_the_raylet_can_open_no_file(cluster: Path) -> None:
    actor = Pid.options(num_cpus=1).remote()
    nbray.get(actor.get.remote(), timeout=60)
    wait_until(lambda: nbray.available_resources().get("CPU") == 1, "its CPU to be taken")
    with no_file_left(raylet_here().pid):
        nbray.kill(actor)
        wait_until(lambda: nbray.available_resources().get("CPU") == 2, "its CPU to be free")


def test_a_gcs_that_was_killed_meanwhile_comes_back(cluster: Path) -> None:
    with no_file_left(raylet_here().pid):
        os.kill(find_session("auto")[1]["pids"][0], signal.SIGKILL)
        wait_until(lambda: log_has("GcsSupervisor failed"), "a start to fail")
    assert len(nbray.nodes()) == 1


def test_a_gcs_of_which_the_session_folder_cannot_tell_is_kept(cluster: Path) -> None:
    session, info = find_session("auto")
    kept, away = session.path / "session.json", session.path / "away"
    kept.rename(away)
    os.kill(info["pids"][0], signal.SIGKILL)
    wait_until(lambda: log_has("does not tell of this GCS"), "the GCS to come back")
    away.rename(kept)
    assert len(nbray.nodes()) == 1 and not log_has("begins anew")
    wait_until(lambda: session.read_info()["pids"][0] != info["pids"][0], "it to be told of")
    assert psutil.pid_exists(session.read_info()["pids"][0])


def test_a_process_that_cannot_be_started_takes_no_descriptor(tmp_path: Path) -> None:
    before, pipes = set(os.listdir("/proc/self/fd")), set(process._alive_pipes)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            spawn("nbray.gcs", [], tmp_path / "none" / "log", fate_shared=True)
    # What earlier tests have left may be given back meanwhile.
    assert set(os.listdir("/proc/self/fd")) <= before and process._alive_pipes == pipes


def test_many_that_come_while_it_stands_still_are_all_taken_in(cluster: Path) -> None:
    session, info = find_session("auto")
    raylet = raylet_here()
    stand_still(raylet.pid)
    came = [Direct().dial_now(info["raylet_socket"], 20.0) for _ in range(200)]
    raylet.resume()
    try:
        for sock in came:
            peer = ClientHandshake(session.token, sock.getpeername)
            sock.sendall(peer.answer(sock.recv(peer.hello_bytes)))
            peer.check(sock.recv(peer.proof_bytes))
    finally:
        for sock in came:
            sock.close()


def test_the_gcs_hears_of_the_end_of_a_job_whose_workers_could_not_be_ended() -> None:
    async def scene() -> None:
        told: asyncio.Queue[object] = asyncio.Queue()

        class Gcs:
            async def call(self, method: str, request: object, _reply: type) -> Empty:
                await told.put((method, request))
                return Empty()

        async def fail(_job_id: bytes) -> None:
            raise OSError("Too many open files")

        jobs = Jobs(b"here", cast(GrpcClient, Gcs()), lambda _: None, fail)
        driver = Address(b"d" * 28, b"there", "", "", 0)
        jobs.note(JobConfig(b"job0", "", driver, [], ""))
        jobs.node_gone(b"there")
        async with asyncio.timeout(20):
            assert await told.get() == ("FinishJob", JobId(b"job0"))

    asyncio.run(scene())


def test_what_was_started_is_ended_before_the_next_is_also_without_a_thread_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(background, "_AGAIN_S", 0.0)

    class Keeper:
        running = started = 0

        async def run(self) -> None:
            assert not self.running
            self.running = 1
            self.started += 1
            raise OSError("Too many open files")

        def stop(self) -> None:
            self.running = 0

    async def scene() -> None:
        keeper, keepers = Keeper(), Supervisors()
        with no_thread_left():
            keepers.start(keeper)
            async with asyncio.timeout(20):
                while keeper.started < 3:
                    await asyncio.sleep(0)
        keepers.look_away()

    asyncio.run(scene())


def test_an_order_for_which_the_kernel_has_no_memory_is_given_when_it_has() -> None:
    class Socket:
        refuses, sent = True, b""

        def setblocking(self, _flag: bool) -> None:
            """It never blocks."""

        def send(self, data: bytearray) -> int:
            if self.refuses:
                raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
            self.sent += bytes(data)
            return len(data)

    sock = Socket()
    lines = JsonLines(cast(socket.socket, sock))
    lines.send({"fork": "1"})
    assert lines.is_waiting
    sock.refuses = False
    lines.flush()
    assert not lines.is_waiting and sock.sent == b'{"fork": "1"}\n'


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_work_goes_on_while_raylet_and_gcs_can_open_no_file_now_and_then(
    cluster: Path, seed: int
) -> None:
    @nbray.remote(max_retries=-1)
    def task(number: int) -> int:
        return number + 1

    @nbray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)
    class Actor:
        def add(self, number: int) -> int:
            return number + 1

    over, chance = threading.Event(), random.Random(seed)

    def disturb() -> None:
        raylet = raylet_here()
        another_by_now = ProcessLookupError, psutil.NoSuchProcess
        while not over.wait(chance.uniform(0.1, 0.8)):
            pids = find_session("auto")[1]["pids"]
            workers = [child for child in raylet.children() if child.pid not in pids]
            with (
                contextlib.suppress(*another_by_now),
                no_file_left(pids[chance.random() < 0.7]),
            ):
                if workers and chance.random() < 0.5:
                    chance.choice(workers).kill()  # the template, or a worker without one
                time.sleep(chance.uniform(0.05, 1.0))

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    try:
        until = time.monotonic() + 12.0
        while time.monotonic() < until:
            actors = [Actor.remote() for _ in range(3)]
            refs = [task.remote(number) for number in range(20)]
            refs += [actor.add.remote(number) for number, actor in enumerate(actors)]
            assert nbray.get(refs, timeout=120) == [*range(1, 21), 1, 2, 3]
            del actors
    finally:
        over.set()
        disturbing.join()
    wait_until(lambda: nbray.available_resources().get("CPU") == 2, "all to be given back")
