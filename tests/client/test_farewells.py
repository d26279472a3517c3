"""A driver from afar whose own agent can say goodbye no more: the cluster hears of its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.far_driver import TOKEN, forked_driver, gateway_of, my_remote, start_far_head
from support.stopping import stand_still

import nbray
from nbray.client.own_folder import hand_on, own_folder
from nbray.exceptions import LocalRayletDiedError
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until


@nbray.remote
class Held:
    """Something of the driver's in the cluster, by the pid of its process."""

    def pid(self) -> int:
        return os.getpid()


held: Any = None


def hold() -> int:
    """Create an actor; its pid."""
    global held
    held = Held.remote()
    pid: int = nbray.get(held.pid.remote())
    return pid


def wait_for_the_end(pid: int, root: Path) -> None:
    """Of what a driver has in the cluster, and of its folder here."""
    wait_until(lambda: not psutil.pid_exists(pid), "the end of what the driver had")
    wait_until(lambda: not list(root.glob("remote-*")), "the end of its folder")


def test_an_agent_that_was_killed_alone_keeps_nothing_in_the_cluster(
    head: RunningNode, address: str, session_root: Path
) -> None:
    nbray.init(address)
    pid = hold()
    os.kill(my_remote().agent_pid, signal.SIGKILL)
    wait_for_the_end(pid, session_root)
    with pytest.raises(LocalRayletDiedError, match="the agent beside this program has ended"):
        nbray.get(held.pid.remote())
    nbray.shutdown()
    assert "its agent has ended" in head.session.log_path("gateway.log").read_text()
    nbray.init(address)
    hold()


def test_a_driver_that_leaves_while_the_path_is_cut_has_left_when_there_is_one_again(
    path: Proxy, address: str, session_root: Path
) -> None:
    nbray.init(address)
    pid = hold()
    path.refuse()
    path.cut()
    nbray.shutdown()
    assert psutil.pid_exists(pid)
    path.refuse(False)
    wait_for_the_end(pid, session_root)


@pytest.mark.slow
def test_a_farewell_goes_by_the_dashboard_as_its_driver_did(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(dashboard=DashboardOptions(True, "127.0.0.1", 0))
    try:
        nbray.init(f"http://{node.webui_url}/")
        pid = hold()
        os.kill(my_remote().agent_pid, signal.SIGKILL)
        wait_for_the_end(pid, session_root)
        nbray.shutdown()
    finally:
        node.stop()


@pytest.mark.slow
def test_a_gateway_that_stands_still_hears_of_it_when_it_goes_on(
    head: RunningNode, address: str, session_root: Path
) -> None:
    nbray.init(address)
    pid = hold()
    gateway = gateway_of(head)
    stand_still(gateway.pid)
    os.kill(my_remote().agent_pid, signal.SIGKILL)
    wait_until(lambda: list(session_root.glob("remote-*/r/logs/farewell.log")), "its successor")
    gateway.resume()
    wait_for_the_end(pid, session_root)


@pytest.mark.slow
def test_for_a_program_that_was_killed_with_its_agent_the_next_one_says_goodbye(
    head: RunningNode, address: str, session_root: Path, tmp_path: Path
) -> None:
    told = tmp_path / "pid"
    program = forked_driver(address, lambda: told.write_text(f"{hold()}\n"))
    wait_until(lambda: told.exists() and told.read_text().endswith("\n"), "the driver")
    (agent,) = [p for p in psutil.Process(program).children() if "agent" in " ".join(p.cmdline())]
    stand_still(agent.pid)
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    agent.kill()
    assert psutil.pid_exists(int(told.read_text()))
    nbray.init(address)
    wait_until(lambda: not psutil.pid_exists(int(told.read_text())), "the end of what it had")
    nbray.shutdown()
    wait_until(lambda: not list(session_root.glob("remote-*")), "the end of all folders")


@pytest.mark.slow
def test_who_does_not_know_the_tunnel_ends_no_driver(address: str, session_root: Path) -> None:
    nbray.init(address)
    hold()
    session, _ = own_folder(TOKEN.encode(), address.removeprefix("nbray://"), 60.0)
    hand_on(session)
    wait_until(lambda: not session.path.exists(), "an answer of the gateway")
    assert nbray.get(held.pid.remote(), timeout=30)
    assert my_remote().state.state == "connected"
