"""A driver from afar talks to workers of the head node over sockets that lead nowhere else."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import cast

import psutil
import pytest
from support.descriptors import no_file_left
from support.far_driver import TOKEN, gateway_of, my_remote, start_far_head
from support.stopping import stand_still, wait_until_still

import nbray
from nbray.client.handing_over import hand_over
from nbray.common.addresses import split
from nbray.exceptions import LocalRayletDiedError
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until


@nbray.remote(num_cpus=0)
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, more: bytes = b"") -> int:
        self.count += 1
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def stand_still(self, note: Path) -> None:
        note.symlink_to(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)

    def rest(self, seconds: float) -> int:
        time.sleep(seconds)
        return self.add()

    def add_elsewhere(self, pid: int) -> int:
        """Add in any other process than that one, which never comes to it."""
        while os.getpid() == pid:
            time.sleep(0.05)
        return self.add()


def has_shortcut(pid: int, head: RunningNode) -> bool:
    """Whether that process has a socket that the gateway accepted."""
    port = split(head.client_server)[1]
    return any(
        one.laddr.port == port and one.status == psutil.CONN_ESTABLISHED
        for one in psutil.Process(pid).net_connections("tcp")
    )


def driver_has_shortcut() -> bool:
    """Whether this side goes over one: the worker has its socket before the driver hears of it."""
    shortcuts = my_remote().road.on_opened.__self__  # type: ignore[attr-defined]
    return any(way is not None and not way.closed for way in list(shortcuts._open.values()))


def test_calls_go_on_while_agent_and_gateway_stand_still_and_cuts_lose_none(
    head: RunningNode, path: Proxy, address: str
) -> None:
    nbray.init(address)
    counter = Counter.remote()
    pid = nbray.get(counter.pid.remote())
    wait_until(lambda: has_shortcut(pid, head) and driver_has_shortcut(), "the shortcut")
    between = (psutil.Process(my_remote().agent_pid), gateway_of(head))
    for process in between:
        process.suspend()
    try:
        assert nbray.get([counter.add.remote() for _ in range(20)]) == list(range(1, 21))
    finally:
        for process in between:
            process.resume()
    refs = []
    for _ in range(3):
        refs += [counter.add.remote() for _ in range(20)]
        path.cut()
        wait_until(lambda: has_shortcut(pid, head), "another shortcut")
    assert nbray.get(refs) == list(range(21, 81))


def test_a_shortcut_that_was_cut_before_the_worker_had_it_is_tried_again(
    head: RunningNode, path: Proxy, address: str, tmp_path: Path
) -> None:
    nbray.init(address)
    counter = Counter.remote()
    ref = counter.stand_still.remote(tmp_path / "pid")
    wait_until((tmp_path / "pid").is_symlink, "the call")
    pid = int((tmp_path / "pid").readlink().name)
    wait_until_still(pid)
    wait_until(lambda: len(path.connections) == 2, "the way to the worker")
    path.connections[1].cut()
    os.kill(pid, signal.SIGCONT)
    nbray.get(ref)
    wait_until(lambda: has_shortcut(pid, head), "the shortcut")
    assert nbray.get(counter.add.remote()) == 1


def test_a_connection_that_cannot_be_handed_over_for_want_of_a_descriptor_is_closed() -> None:
    class Transport:
        ended = False

        def is_closing(self) -> bool:
            return False

        def pause_reading(self) -> None:
            """From here on it is the process's."""

        def abort(self) -> None:
            self.ended = True

    async def scene() -> None:
        transport = Transport()
        with no_file_left():
            await hand_over(cast(asyncio.Transport, transport), "/tmp/none", b"t", 1.0, 1.0)
        assert transport.ended

    asyncio.run(scene())


@pytest.mark.slow
def test_a_shortcut_ends_with_the_gateway_that_gave_it(head: RunningNode, address: str) -> None:
    nbray.init(address, namespace="house")
    kept = Counter.options(name="kept", lifetime="detached").remote()
    pid = nbray.get(kept.pid.remote())
    wait_until(lambda: has_shortcut(pid, head), "the shortcut")
    gateway_of(head).kill()
    wait_until(lambda: not has_shortcut(pid, head), "its end")

    def is_told() -> bool:
        try:
            nbray.get(kept.add.remote(), timeout=1)
        except LocalRayletDiedError:
            return True
        except nbray.exceptions.GetTimeoutError:
            return False
        return False

    wait_until(is_told, "the word of the driver's end")
    nbray.shutdown()
    nbray.init(address, namespace="house")
    assert nbray.get(nbray.get_actor("kept").pid.remote()) == pid


@pytest.mark.slow
def test_a_worker_that_stands_still_or_dies_does_so_for_a_driver_from_afar_too(
    head: RunningNode, address: str
) -> None:
    nbray.init(address)
    counter = Counter.options(max_restarts=1, max_task_retries=-1).remote()
    pid = nbray.get(counter.pid.remote())
    wait_until(lambda: has_shortcut(pid, head), "the shortcut")
    stand_still(pid)
    refs = [counter.add.remote() for _ in range(10)]
    assert not nbray.wait(refs, timeout=2)[0]
    os.kill(pid, signal.SIGCONT)
    assert nbray.get(refs) == list(range(1, 11))
    ref = counter.add_elsewhere.remote(pid)
    os.kill(pid, signal.SIGKILL)
    assert nbray.get(ref, timeout=60) == 1, "a new process has begun to count"
    assert nbray.get(counter.pid.remote()) != pid


@pytest.mark.slow
def test_a_driver_that_is_away_for_longer_than_others_may_be_keeps_its_calls(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 700 s away of 6,000 s, where others of the cluster have 600 s: each a hundredth."""
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("NBRAY_PEER_PATIENCE_S", "0.5")
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "1")
    monkeypatch.setenv("NBRAY_CLIENT_RECONNECT_GRACE_PERIOD", "60")
    node = start_far_head(num_cpus=2, object_store_memory=100 << 20)
    try:
        with Proxy(split(node.client_server)) as path:
            nbray.init(f"nbray://{path.place[0]}:{path.place[1]}")
            counter = Counter.remote()
            pid = nbray.get(counter.pid.remote())
            wait_until(lambda: has_shortcut(pid, node), "the shortcut")
            refs = [counter.rest.remote(1), counter.add.remote()]
            path.refuse()
            path.cut()
            time.sleep(7)
            path.refuse(False)
            assert nbray.get(refs, timeout=60) == [1, 2]
            wait_until(lambda: has_shortcut(pid, node), "another shortcut")
            assert nbray.get(counter.add.remote()) == 3
    finally:
        nbray.shutdown()
        node.stop()


@pytest.mark.slow
def test_without_shortcuts_all_goes_through_the_tunnel(
    head: RunningNode, path: Proxy, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_CLIENT_SHORTCUTS", "0")
    nbray.init(address)
    counter = Counter.remote()
    for _ in range(20):
        nbray.get(counter.rest.remote(0.05))
    assert len(path.connections) == 1


@pytest.mark.slow
def test_there_are_no_more_shortcuts_than_may_be(
    head: RunningNode, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_CLIENT_SHORTCUTS", "2")
    nbray.init(address)
    counters = [Counter.remote() for _ in range(4)]
    pids = nbray.get([one.pid.remote() for one in counters])

    def count() -> int:
        return sum(has_shortcut(pid, head) for pid in pids)

    wait_until(lambda: count() == 2, "two shortcuts")
    assert nbray.get([one.add.remote() for one in counters for _ in range(50)])[-1] == 50
    assert count() == 2
    for counter, pid in zip(counters, pids, strict=True):
        if has_shortcut(pid, head):
            nbray.kill(counter)
    more = [Counter.remote() for _ in range(2)]
    pids = nbray.get([one.pid.remote() for one in more])
    wait_until(lambda: count() == 2, "shortcuts in the place of those that ended")


@pytest.mark.slow
def test_a_shortcut_to_what_takes_none_leads_nowhere(head: RunningNode, address: str) -> None:
    """Another driver from afar is reached by a socket of the head node, too, behind which it is."""
    from nbray.core_worker.current import find_core
    from nbray.wire.handshake import ClientHandshake
    from nbray.wire.tunnel_messages import ENDPOINT, Shortcut, packed

    nbray.init(address)
    core = find_core()
    assert core is not None
    own = core.address.unix_path
    tunnel = my_remote().tunnel
    for asked in (Shortcut(tunnel, own), Shortcut(bytes(16), own), Shortcut(tunnel, "/tmp/none")):
        with socket.create_connection(split(head.client_server), timeout=20) as sock:
            client = ClientHandshake(TOKEN.encode(), lambda: ENDPOINT)
            sock.sendall(client.answer(sock.recv(client.hello_bytes, socket.MSG_WAITALL)))
            sock.sendall(packed(asked))
            client.check(sock.recv(client.proof_bytes, socket.MSG_WAITALL))
            assert sock.recv(1) == b"", asked
    assert nbray.get(Counter.remote().add.remote()) == 1
