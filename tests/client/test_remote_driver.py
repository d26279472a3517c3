"""A driver that is on no machine of the cluster: all goes through its tunnel."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import psutil
import pytest
from support.descriptors import no_file_left
from support.far_driver import TOKEN, forked_driver, gateway_of, my_remote, start_far_head
from support.ports import refusing_port
from support.stopping import stand_still
from support.strangers import is_closed

import nbray
from nbray.client.remote_driver import RemoteDriver
from nbray.common.addresses import split
from nbray.common.config import Config
from nbray.common.session import Session, SessionInfo
from nbray.exceptions import LocalRayletDiedError
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until

MB = 1 << 20


@nbray.remote
def double(x):  # type: ignore[no-untyped-def]
    return 2 * x


@nbray.remote
def five() -> Iterator[int]:
    yield from range(5)


@nbray.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, more: int = 1) -> int:
        self.count += more
        return self.count


def test_tasks_actors_and_values_of_any_size_pass(head: RunningNode, address: str) -> None:
    with nbray.init(address, namespace="far") as context:
        assert context["gcs_address"] == head.gcs_address
        assert context.protocol_version and context.ray_commit and context.python_version
        assert nbray.get([double.remote(i) for i in range(300)]) == list(range(0, 600, 2))
        counter = Counter.options(name="counter").remote()
        assert nbray.get([counter.add.remote() for _ in range(50)])[-1] == 50
        assert nbray.get(nbray.get_actor("counter").add.remote(5)) == 55
        large = np.arange(4 * MB)
        ref = nbray.put(large)
        read = nbray.get(ref)
        assert (read == large).all() and not read.flags.writeable
        assert np.shares_memory(nbray.get(ref), read), "a value that is here is not fetched again"
        assert (nbray.get(double.remote(ref)) == 2 * large).all()
        assert (nbray.get(double.remote(large)) == 2 * large).all()

        @nbray.remote
        def made_there(inner: list) -> int:  # type: ignore[type-arg]
            return int(nbray.get(inner[0]).sum()) + nbray.get(double.remote(1))

        assert nbray.get(made_there.remote([ref])) == int(large.sum()) + 2
        items = five.remote()
        assert [nbray.get(item) for item in items] == [0, 1, 2, 3, 4]
    assert not nbray.is_initialized()
    log = head.session.log_path("gateway.log")
    wait_until(lambda: "has left" in log.read_text(), "its goodbye")


def test_a_cut_connection_is_made_anew_and_nothing_is_lost(path: Proxy, address: str) -> None:
    nbray.init(address)
    counter = Counter.remote()
    refs = []
    for _ in range(8):
        refs += [counter.add.remote() for _ in range(40)]
        nbray.wait(refs, num_returns=len(refs) - 20)
        path.cut()
    assert nbray.get(refs) == list(range(1, 321))
    large = nbray.put(np.ones(2 * MB))
    path.cut()
    assert nbray.get(double.remote(large)).sum() == 4 * MB
    wait_until(lambda: my_remote().state.state == "connected", "the tunnel")
    assert len(path.connections) >= 3


def test_who_was_away_for_too_long_is_dead_and_is_told(
    head: RunningNode, path: Proxy, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_CLIENT_RECONNECT_GRACE_PERIOD", "0.5")
    nbray.init(address)
    pid = nbray.get(nbray.remote(os.getpid).remote())
    refs = [nbray.remote(time.sleep).remote(1000)]
    path.refuse()
    path.cut()
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the job's workers")
    path.refuse(False)
    with pytest.raises(LocalRayletDiedError, match=r"has lost its cluster"):
        nbray.get(refs)
    with pytest.raises(LocalRayletDiedError, match=r"nbray\.init"):
        nbray.get(double.remote(1))
    nbray.shutdown()
    nbray.init(address)
    assert nbray.get(double.remote(1)) == 2


def test_a_wrong_token_another_nbray_and_nobody_are_told_apart(
    head: RunningNode, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", "another token of another cluster")
    with pytest.raises(ConnectionError, match=r"does not take this program in: .*token"):
        nbray.init(address)
    with (
        refusing_port() as port,
        pytest.raises(ConnectionError, match=r"No gateway can be reached.*10001 by default"),
    ):
        nbray.init(f"nbray://127.0.0.1:{port}")
    with socket.create_server(("127.0.0.1", 0)) as old:

        def answer() -> None:
            peer, _ = old.accept()
            peer.sendall(b"NBRY\3\0\3\10" + b"0.0.1".ljust(10, b"\0") + b"abcd" + bytes(16))
            peer.recv(1000)
            peer.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ConnectionError, match=r"runs nbray 0\.0\.1 on Python 3\.8.*install"):
            nbray.init(f"nbray://127.0.0.1:{old.getsockname()[1]}")
        thread.join()
    for wrong in ("nbray://", "http://", "tcp://a:1", "nbray://a:b", "nbray://[::1"):
        with pytest.raises(ConnectionError, match="no address of a cluster"):
            nbray.init(wrong)
    with pytest.raises(ValueError, match="num_cpus"):
        nbray.init(address, num_cpus=1)


def test_a_driver_for_which_there_is_no_port_leaves_no_socket(session_root: Path) -> None:
    session = Session.create()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config = Config(min_worker_port=port, max_worker_port=port)
        info = cast(SessionInfo, {"node_ip": "127.0.0.1"})

        async def come() -> None:
            RemoteDriver(session, info, b"token", config, b"driver", 1.0, lambda: None)

        with pytest.raises(OSError, match="No port"):
            asyncio.run(come())
    assert not list((session.path / "sockets").iterdir())
    session.remove()


@pytest.mark.slow
def test_strangers_take_neither_the_place_nor_the_time_of_drivers(
    head: RunningNode, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = head.client_server.rsplit(":", 1)
    strangers = [socket.create_connection((host, int(port))) for _ in range(200)]
    strangers[0].sendall(b"GET / HTTP/1.1\r\n\r\n")
    nbray.init(address)
    assert nbray.get(double.remote(4)) == 8
    for stranger in strangers[:72]:  # those that made way for others
        stranger.settimeout(60)
        assert is_closed(stranger)
    for stranger in strangers:
        stranger.close()


@pytest.mark.slow
def test_the_end_of_the_agent_is_said(head: RunningNode, address: str) -> None:
    nbray.init(address)
    ref = nbray.remote(time.sleep).remote(1000)
    os.kill(my_remote().agent_pid, signal.SIGKILL)
    with pytest.raises(LocalRayletDiedError, match="the agent beside this program has ended"):
        nbray.get(ref)


@pytest.mark.slow
def test_the_end_of_the_gateway_is_said_and_another_one_comes(
    head: RunningNode, address: str
) -> None:
    nbray.init(address)
    ref = nbray.remote(time.sleep).remote(1000)
    gateway_of(head).kill()
    with pytest.raises(LocalRayletDiedError, match=r"gateway was started again"):
        nbray.get(ref)
    nbray.shutdown()
    nbray.init(address)
    assert nbray.get(double.remote(3)) == 6


@pytest.mark.slow
def test_the_end_of_a_killed_driver_is_seen_at_once(
    head: RunningNode, address: str, session_root: Path
) -> None:
    program = forked_driver(address, lambda: nbray.remote(time.sleep).remote(1000))
    log = head.session.log_path("gateway.log")
    wait_until(lambda: log.exists() and "has come" in log.read_text(), "the driver")
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    wait_until(lambda: re.search("has gone: the driver has left", log.read_text()), "its end")
    wait_until(lambda: not list(session_root.glob("remote-*")), "the end of its folder")


@pytest.mark.slow
def test_the_dashboards_port_leads_into_the_cluster_too(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(
        object_store_memory=100 * MB, dashboard=DashboardOptions(True, "127.0.0.1", 0)
    )
    try:
        with (
            Proxy(split(node.webui_url)) as proxy,
            nbray.init(f"http://{proxy.place[0]}:{proxy.place[1]}/") as context,
        ):
            large = nbray.put(np.ones(2 * MB))
            refs = [double.remote(i) for i in range(50)]
            proxy.cut()
            assert nbray.get(refs) == list(range(0, 100, 2))
            assert nbray.get(double.remote(large)).sum() == 4 * MB
            assert context.probe_dashboard() == "", "the dashboard is shown on this machine"
        monkeypatch.setenv("NBRAY_AUTH_TOKEN", "not the token of that cluster")
        with pytest.raises(ConnectionError, match="token"):
            nbray.init(f"http://{node.webui_url}")
    finally:
        node.stop()


@pytest.mark.slow
def test_a_gateway_for_which_there_was_no_descriptor_is_started_later(
    head: RunningNode, address: str
) -> None:
    raylet = psutil.Process(head.children[-1].pid)
    log = head.session.log_path("raylet.log")
    joining = threading.Thread(target=nbray.init, args=(address,))
    # Far below what it has open: of that it may give some back meanwhile, as after a start.
    with no_file_left(raylet.pid, raylet.num_fds() // 2):
        joining.start()
        wait_until(lambda: "ClientPort failed" in log.read_text(), "the want of one")
    joining.join(60)
    assert my_remote().state.state == "connected"
    assert nbray.get(double.remote(5), timeout=30) == 10
    assert "was ended by an error" not in log.read_text(), "what goes on for ever does so"


@pytest.mark.parametrize("way", ["get", "put"])
def test_a_large_value_travels_when_the_program_has_descriptors_again(
    address: str, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level("INFO")
    nbray.init(address)
    made = nbray.remote(np.ones).remote(MB)
    nbray.wait([made], timeout=60, fetch_local=False)
    with ThreadPoolExecutor(1) as thread:
        act = partial(nbray.get, made) if way == "get" else partial(nbray.put, np.ones(MB))
        with no_file_left():
            done = thread.submit(act)
            wait_until(lambda: "the store yet" in caplog.text or done.done(), "a first attempt")
        found = done.result(60)
    assert np.array_equal(found if way == "get" else nbray.get(found), np.ones(MB))


@pytest.mark.slow
def test_of_a_driver_that_was_killed_with_its_agent_nothing_stays(
    head: RunningNode, address: str, session_root: Path
) -> None:
    program = forked_driver(address)
    # It writes that once its agent has told it of the cluster.
    wait_until(lambda: list(session_root.glob("remote-*/r/session.json")), "the driver")
    (left,) = session_root.glob("remote-*")
    (agent,) = [
        process for process in psutil.process_iter(["cmdline"])
        if "nbray.client.agent" in (process.info["cmdline"] or ())
        and str(left / "r") in process.info["cmdline"]
    ]  # fmt: skip
    stand_still(agent.pid)
    os.kill(program, signal.SIGKILL)
    os.waitpid(program, 0)
    agent.kill()
    assert left.exists()
    nbray.init(address)
    wait_until(lambda: not left.exists(), "the end of the folder, of which the next one has heard")
    assert len(list(session_root.glob("remote-*"))) == 1


@pytest.mark.slow
def test_a_driver_that_was_killed_while_it_connects_leaves_no_folder(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("NBRAY_START_TIMEOUT_S", "600")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        program = forked_driver(f"nbray://127.0.0.1:{silent.getsockname()[1]}")
        peer, _ = silent.accept()
        assert list(session_root.glob("remote-*"))
        os.kill(program, signal.SIGKILL)
        os.waitpid(program, 0)
        wait_until(lambda: not list(session_root.glob("remote-*")), "the end of its folder")
        peer.close()
