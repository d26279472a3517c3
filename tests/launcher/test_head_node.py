"""The first GCS and template of a head are forks of what becomes the raylet, and like any other."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.commands import command
from support.ports import free_port
from support.processes import kill_gcs, running, template_of
from support.stopping import stand_still

import nbray
from nbray.common.process import ForkedProcess, ProcessStartError
from nbray.common.session import CLIENT_SOCKET
from nbray.driver.driver import current_driver
from nbray.launcher import local
from nbray.launcher.client_port import RemoteDrivers
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import ClusterOptions, RunningNode, start_head
from nbray.launcher.record import NodeRecord
from nbray.testing import processes_of, wait_until


def test_each_shows_what_it_is_and_writes_its_own_log(cluster: Path) -> None:
    node = current_driver().node
    gcs, raylet = (psutil.Process(child.pid) for child in node.children)
    assert gcs.parent() == raylet
    words = [word for word in gcs.cmdline() if word]
    assert words[:4] == [sys.executable, "-P", "-m", "nbray.gcs"]
    assert words[words.index("--session-dir") + 1] == str(node.session.path)
    assert running(cluster, "nbray.gcs") == [gcs]
    assert running(cluster, "nbray.raylet") == [raylet]
    assert os.getsid(gcs.pid) == gcs.pid
    open_there = {os.readlink(f"/proc/{gcs.pid}/fd/{number}") for number in (1, 2)}
    assert open_there == {str(node.session.log_path("gcs.log"))}


@pytest.mark.parametrize(
    "killed",
    [
        "raylet",
        *(
            pytest.param(who, marks=pytest.mark.slow)
            for who in ("nothing", "gcs", "both", "stopped")
        ),
    ],
)
def test_a_node_ends_whole_whatever_has_ended_before(session_root: Path, killed: str) -> None:
    node = start_head(NodeOptions(resources={"CPU": 1}))
    gcs, raylet = (psutil.Process(child.pid) for child in node.children)
    if killed in ("raylet", "both"):
        raylet.kill()
    if killed == "gcs":
        kill_gcs(session_root)
        wait_until(lambda: gcs not in running(session_root, "nbray.gcs"), "it to be reaped")
    if killed == "both":
        gcs.kill()
    if killed == "stopped":
        stand_still(gcs.pid)
    node.stop()
    wait_until(lambda: not processes_of(session_root), "all to have ended")
    assert not node.session.path.exists()


def test_a_process_that_was_never_forked_has_ended() -> None:
    told, tells = os.pipe()
    os.close(tells)
    never = ForkedProcess(told)
    assert (never.pid, never.poll(), never.wait(1.0)) == (0, 0, 0)
    never.terminate()
    never.kill()


def test_a_gcs_that_cannot_start_says_why_and_leaves_no_process(session_root: Path) -> None:
    elsewhere = ClusterOptions(storage="redis://127.0.0.1:1")
    with pytest.raises(ProcessStartError, match="The GCS could not start"):
        start_head(NodeOptions(resources={"CPU": 1}), elsewhere)
    assert not processes_of(session_root)


def test_a_raylet_that_cannot_listen_leaves_no_process(session_root: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = {"NBRAY_NODE_MANAGER_PORT": str(taken.getsockname()[1])}
        for _ in range(3):
            with pytest.raises(ProcessStartError, match="cannot listen"):
                start_head(NodeOptions(resources={"CPU": 1}, variables=port))
            assert not processes_of(session_root)


@pytest.mark.parametrize("module", ["nbray.gcs", "nbray.core_worker.run.template", "a worker"])
def test_a_start_that_is_interrupted_leaves_no_process(
    session_root: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """Also not what was forked a moment before: whoever interrupts may start again at once."""

    def interrupt(*_: object) -> None:
        if module == "a worker":
            (raylet,) = running(session_root, "nbray.raylet")
            wait_until(lambda: template_of(raylet).children(), "a worker")
        else:
            wait_until(lambda: running(session_root, module), f"a process of {module}")
        raise KeyboardInterrupt

    if module == "a worker":
        monkeypatch.setattr(local, "_write_info", interrupt)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            start_head(
                NodeOptions(resources={"CPU": 1}),
                meanwhile=(lambda: None) if module == "a worker" else interrupt,
            )
        assert not processes_of(session_root)


KILLED_START = """
import os, signal, sys
from nbray.launcher import local
from nbray.launcher.described import NodeOptions

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

step, wanted = sys.argv[1], NodeOptions(resources={"CPU": 1})
if step == "while they come up":
    local.start_head(wanted, fate_shared=False, meanwhile=killed)
setattr(local, step, killed)
local.start_head(wanted, fate_shared=False)
"""


@pytest.mark.parametrize("step", ["while they come up", "_raylet_ready", "_write_info"])
def test_of_a_start_that_is_killed_nothing_stays(home: Path, step: str) -> None:
    """What nobody has heard of leaves by itself, and ``nbray stop`` ends the rest at once."""
    start = subprocess.run([sys.executable, "-c", KILLED_START, step])
    assert start.returncode == -signal.SIGKILL
    if step != "_write_info":
        wait_until(lambda: not processes_of(home), "all to have ended")
    stopped = command("stop")
    assert stopped.returncode == 0, stopped.stderr
    wait_until(lambda: not processes_of(home), "all to have ended")
    assert not list(home.glob("s*"))


def test_a_gcs_tells_its_pid_itself_as_its_parent_may_be_killed(session_root: Path) -> None:
    """Killed as soon as there is a GCS, and the node has to end it."""

    def kill_raylet() -> None:
        wait_until(lambda: running(session_root, "nbray.gcs"), "a GCS")
        for raylet in running(session_root, "nbray.raylet"):
            raylet.kill()

    with pytest.raises(ProcessStartError, match="ended at once"):
        start_head(NodeOptions(resources={"CPU": 1}), fate_shared=False, meanwhile=kill_raylet)
    wait_until(lambda: not processes_of(session_root), "all to have ended")


# --- the template of its workers --------------------


def test_the_template_is_a_fork_with_nothing_of_the_raylets(cluster: Path) -> None:
    node = current_driver().node
    raylet = psutil.Process(node.children[-1].pid)
    template = template_of(raylet)
    words = [word for word in template.cmdline() if word]
    assert words[:4] == [sys.executable, "-P", "-m", "nbray.core_worker.run.template"]
    assert template.parent() == raylet
    assert os.getsid(template.pid) == template.pid
    own = {os.readlink(f"/proc/{template.pid}/fd/{number}") for number in (1, 2)}
    assert own == {str(node.session.log_path("template.log"))}
    assert not {*files_of(template)} & {*files_of(raylet)}


def files_of(process: psutil.Process) -> Iterator[str]:
    """The sockets, pipes and files that a process has open, but its standard streams."""
    folder = Path(f"/proc/{process.pid}/fd")
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):
            place = os.readlink(folder / name)
            if int(name) > 2 and "anon_inode" not in place and not place.startswith("/"):
                yield place


def test_workers_have_what_those_of_a_started_template_have(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_STORAGE", "memory")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    @nbray.remote
    def about() -> dict[str, object]:
        return {
            "environment": {name: os.environ.get(name) for name in ("NBRAY_STORAGE", "HOME")},
            "argv": [Path(sys.argv[0]).name, *sys.argv[1:2]],
            "collects": gc.isenabled(),
            "cwd": os.getcwd(),
            "signals": [str(signal.getsignal(s)) for s in (signal.SIGTERM, signal.SIGCHLD)],
            "threads": os.environ.get("OMP_NUM_THREADS"),
        }

    with nbray.init(num_cpus=1):
        raylet = psutil.Process(current_driver().node.children[-1].pid)
        forked = template_of(raylet)
        before = nbray.get(about.remote())
        forked.kill()
        wait_until(lambda: not forked.is_running(), "it to be reaped")
        another = about.options(runtime_env={"env_vars": {"OF": "another template"}})
        after = nbray.get(another.remote())
        assert template_of(raylet) != forked
    assert after == before
    assert before["environment"] == {"NBRAY_STORAGE": None, "HOME": os.environ.get("HOME")}
    assert before["collects"] is True
    assert before["threads"] == "1"


@pytest.mark.slow
def test_of_two_who_bring_a_head_back_at_once_one_is_told_so(session_root: Path) -> None:
    def start(session: Path | None = None, **how: Any) -> RunningNode:
        return start_head(
            NodeOptions(resources={"CPU": 1}), ClusterOptions(session=session),
            remote_drivers=RemoteDrivers(0), **how,
        )  # fmt: skip

    node = start()
    for child in reversed(node.children):
        psutil.Process(child.pid).kill()
    wait_until(lambda: not processes_of(session_root), "all to have ended")

    def second() -> None:
        with pytest.raises(ValueError, match="is being brought back by another command"):
            start(node.session.path)

    back = start(node.session.path, meanwhile=second)
    try:
        with socket.socket(socket.AF_UNIX) as driver:
            driver.connect(back.session.socket_path(CLIENT_SOCKET))
            driver.settimeout(20)
            assert driver.recv(100), "the gateway speaks first"
    finally:
        back.stop()


def test_a_record_says_that_a_node_is_up_once_it_is_of_one_that_comes_back_too(
    session_root: Path, tmp_path: Path
) -> None:
    record = NodeRecord(tmp_path / "record")
    seen: list[bool] = []

    def start(session: Path | None = None) -> RunningNode:
        return start_head(
            NodeOptions(resources={"CPU": 1}), ClusterOptions(session=session), record=record,
            meanwhile=lambda: seen.append((record.folder / "running").exists()),
        )  # fmt: skip

    node = start()
    for child in reversed(node.children):
        psutil.Process(child.pid).kill()
    wait_until(lambda: not processes_of(session_root), "all to have ended")
    assert (record.folder / "session" / "session.json").exists(), "it says so of the one before"
    back = start(node.session.path)
    try:
        assert seen == [False, False]
        assert (record.folder / "running").exists()
    finally:
        back.stop()


def test_a_start_that_fails_at_once_gives_its_ports_back(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setenv("NBRAY_TMPDIR", "/x" * 100)
    with pytest.raises(OSError, match="too long a path") as raised:
        start_head(NodeOptions(resources={"CPU": 1}), dashboard=DashboardOptions(True, port=port))
    assert raised.value, "which holds what the start had"
    socket.create_server(("127.0.0.1", port)).close()
