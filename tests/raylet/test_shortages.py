"""A raylet that has no descriptor left for a moment, or no time: afterwards all is as before."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.processes import template_of
from support.stopping import stand_still

import nbray
from nbray.common import process
from nbray.common.process import spawn
from nbray.core_worker.current import joined_core
from nbray.driver.joining import find_session
from nbray.testing import wait_until
from nbray.wire.connections import Direct
from nbray.wire.handshake import ClientHandshake


def raylet_here() -> psutil.Process:
    return psutil.Process(find_session("auto")[1]["pids"][1])


def log_has(text: str) -> bool:
    session = joined_core().session
    return text in session.log_path("raylet.log").read_text()


@nbray.remote(num_cpus=0)
class Pid:
    def get(self) -> int:
        return os.getpid()


@contextmanager
def no_file_left(raylet: psutil.Process) -> Iterator[None]:
    """It can open none, as at its limit; a process cannot be started without one either."""
    limits = raylet.rlimit(resource.RLIMIT_NOFILE)
    raylet.rlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        raylet.rlimit(resource.RLIMIT_NOFILE, limits)


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
    with no_file_left(raylet):
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
    nbray.wait(answers, num_returns=2, timeout=60)  # the workers that were there are used up
    with no_file_left(raylet):
        template.kill()
        wait_until(lambda: log_has("template.log is not read"), "its end to be heard")
    assert len(set(nbray.get(answers, timeout=60))) == 6


def test_a_gcs_that_was_killed_meanwhile_comes_back(cluster: Path) -> None:
    with no_file_left(raylet_here()):
        os.kill(find_session("auto")[1]["pids"][0], signal.SIGKILL)
        wait_until(lambda: log_has("Supervisors"), "a start to fail")
    assert len(nbray.nodes()) == 1


def test_a_gcs_of_which_the_session_folder_cannot_tell_is_kept(cluster: Path) -> None:
    session, info = find_session("auto")
    kept, away = session.path / "session.json", session.path / "away"
    kept.rename(away)
    os.kill(info["pids"][0], signal.SIGKILL)
    wait_until(lambda: log_has("does not tell of this GCS"), "the GCS to come back")
    away.rename(kept)
    assert len(nbray.nodes()) == 1 and not log_has("begins anew")


def test_a_process_that_cannot_be_started_takes_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd"), set(process._alive_pipes)
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            spawn("nbray.gcs", [], tmp_path / "none" / "log", fate_shared=True)
    assert (os.listdir("/proc/self/fd"), process._alive_pipes) == before


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
