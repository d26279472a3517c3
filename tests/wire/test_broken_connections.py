"""A closed connection is not a death: cables are cut, and processes stand still for seconds."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from support.cutting import my_port
from support.descriptors import no_file_left
from support.nodes import join_here
from support.stopping import stand_still

import nbray
from nbray.common.config import Config
from nbray.core_worker.broken_links import BrokenLinks
from nbray.core_worker.current import joined_core
from nbray.launcher.local import RunningNode
from nbray.testing import cut, wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from nbray.wire import messages as m
from nbray.wire.connections import Direct
from nbray.wire.records import Address


@pytest.fixture
def far(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningNode]:
    """A node beside the head, with the resource "far": processes talk to it by TCP."""
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "2")
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    node = join_here({"CPU": 2, "far": 8})
    yield node
    node.stop()


@nbray.remote(num_cpus=0, resources={"far": 1})
class Counter:
    """Counts its calls; it may not be restarted."""

    def __init__(self) -> None:
        self.count = 0
        self.held: list[Any] = []

    def port(self) -> int:
        return my_port()

    def add(self, go: Path | None = None) -> int:
        self.count += 1
        if go is not None:
            wait_until(go.exists, "the word to go on")
        return self.count

    def hold(self, refs: list[Any]) -> None:
        self.held += refs

    def read(self) -> list[Any]:
        return cast(list[Any], nbray.get(self.held))

    def cut(self, port: int) -> int:
        return cut(port)

    def total(self, other: Any, calls: int) -> int:
        return cast(int, nbray.get([other.add.remote() for _ in range(calls)])[-1])


def near_counter() -> Any:
    """One on this driver's node."""
    here = nbray.get_runtime_context().get_node_id()
    at_home = NodeAffinitySchedulingStrategy(here, soft=False)
    return Counter.options(resources={}, scheduling_strategy=at_home).remote()


def test_a_cut_connection_loses_no_call_and_makes_none_twice(
    far: RunningNode, tmp_path: Path
) -> None:
    counter = Counter.remote()
    port = nbray.get(counter.port.remote(), timeout=30)
    in_flight = counter.add.remote(tmp_path / "go")
    behind = [counter.add.remote() for _ in range(5)]
    assert cut(port) == 1
    later = [counter.add.remote() for _ in range(5)]
    (tmp_path / "go").touch()
    assert nbray.get([in_flight, *behind, *later], timeout=30) == list(range(1, 12))
    for expected in range(12, 40):  # cut while calls and replies are under way
        ref = counter.add.remote()
        cut(port)
        assert nbray.get(ref, timeout=30) == expected


def test_who_has_no_descriptor_to_connect_with_does_so_later(cluster: Path) -> None:
    counter = Counter.options(resources={}).remote()
    core = joined_core()
    with no_file_left():
        answers = [counter.add.remote(), nbray.remote(lambda: 1).remote()]
        wait_until(lambda: len(core.peers._broken._cases) == 2, "both to find none")
    assert nbray.get(answers, timeout=30) == [1, 1]


def test_who_connects_where_many_wait_already_waits_too(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as stack:
        server.bind(path)
        server.listen(0)
        stack.enter_context(Direct().dial_now(path, 30.0))
        with pytest.raises(BlockingIOError):
            Direct().dial_now(path, 0.01)
        with ThreadPoolExecutor() as threads:
            late = threads.submit(Direct().dial_now, path, 30.0)
            for _ in range(2):
                stack.enter_context(server.accept()[0])
            stack.enter_context(late.result(30.0))


def test_two_actors_whose_connection_is_cut_go_on(far: RunningNode) -> None:
    here, there = near_counter(), Counter.remote()
    port = nbray.get(there.port.remote(), timeout=30)
    assert nbray.get(here.total.remote(there, 10), timeout=30) == 10
    assert nbray.get(here.cut.remote(port), timeout=30) == 1
    assert nbray.get(here.total.remote(there, 10), timeout=30) == 20


def test_a_cut_connection_loses_no_task_that_may_not_be_run_again(
    far: RunningNode, tmp_path: Path
) -> None:
    @nbray.remote(num_cpus=0, resources={"far": 1}, max_retries=0)
    def task(started: Path, go: Path) -> int:
        started.write_text(str(my_port()))
        wait_until(go.exists, "the word to go on")
        return os.getpid()

    ref = task.remote(tmp_path / "started", tmp_path / "go")
    wait_until(
        lambda: (tmp_path / "started").exists() and (tmp_path / "started").read_text(), "the task"
    )
    assert cut(int((tmp_path / "started").read_text())) == 1
    (row,) = [node for node in nbray.nodes() if node["NodeID"] == far.node_id]
    assert cut(row["NodeManagerPort"]) == 1  # that of the lease, to the node's raylet
    (tmp_path / "go").touch()
    assert nbray.get(ref, timeout=30) > 0
    wait_until(lambda: nbray.available_resources().get("far") == 8.0, "the lease to be returned")


def test_an_owner_and_a_borrower_that_were_cut_off_keep_what_they_have(far: RunningNode) -> None:
    counter = Counter.remote()
    port = nbray.get(counter.port.remote(), timeout=30)
    refs = [nbray.put("small"), nbray.put(b"x" * 500_000)]
    nbray.get(counter.hold.remote(refs), timeout=30)
    assert cut(port) == 1
    del refs  # the actor's are the only ones now
    assert nbray.get(counter.read.remote(), timeout=30) == ["small", b"x" * 500_000]


def test_a_stream_goes_on_where_it_was_cut(far: RunningNode, tmp_path: Path) -> None:
    @nbray.remote(num_cpus=0, resources={"far": 1}, num_returns="streaming", max_retries=0)
    def items(port: Path) -> Iterator[int]:
        port.write_text(str(my_port()))
        yield from range(200)

    taken = []
    for ref in items.remote(tmp_path / "port"):
        taken.append(nbray.get(ref, timeout=30))
        if len(taken) % 20 == 1:
            cut(int((tmp_path / "port").read_text()))
    assert taken == list(range(200))


def test_the_end_of_a_process_is_heard_of_at_once_also_after_a_cut(far: RunningNode) -> None:
    counter = Counter.remote()
    port = nbray.get(counter.port.remote(), timeout=30)
    cut(port)
    nbray.kill(counter)
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(counter.add.remote(), timeout=30)
    another = Counter.remote()
    pid = nbray.get(another.__ray_call__.remote(lambda _self: os.getpid()), timeout=30)
    waiting = another.add.remote(Path("/nowhere"))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(nbray.exceptions.ActorDiedError, match="SIGKILL"):
        nbray.get(waiting, timeout=30)


def test_an_actor_that_stands_still_is_not_dead(far: RunningNode) -> None:
    """Its first caller knocks meanwhile, for longer than a handshake may take."""
    counter, caller = Counter.remote(), near_counter()
    pid = nbray.get(counter.__ray_call__.remote(lambda _self: os.getpid()), timeout=30)
    nbray.get(caller.port.remote(), timeout=30)
    process = psutil.Process(pid)
    stand_still(pid)
    try:
        first = caller.total.remote(counter, 1)
        own = counter.add.remote()
        assert nbray.wait([first, own], timeout=5)[0] == []
    finally:
        process.resume()
    assert sorted(nbray.get([first, own], timeout=30)) == [1, 2]
    assert nbray.get(caller.total.remote(counter, 3), timeout=30) == 5


def test_an_owner_that_stands_still_is_not_dead(cluster: Path) -> None:
    """An actor asks a driver for a value that is in one long C call meanwhile."""
    counter = Counter.options(resources={}).remote()
    nbray.get(counter.port.remote(), timeout=30)
    nbray.get(counter.hold.remote([nbray.put("small")]), timeout=30)
    reader = Counter.options(resources={}).remote()
    nbray.get(reader.port.remote(), timeout=30)
    ref = nbray.put("another")
    reader.hold.remote([ref])
    got = reader.read.remote()
    began = time.monotonic()
    sum(range(150_000_000))  # holds the interpreter's lock all the while
    assert time.monotonic() - began > 1
    assert nbray.get(got, timeout=30) == ["another"]


def test_whoever_connects_and_goes_again_ends_nobody(cluster: Path) -> None:
    """As a port scanner or a health check does, while an actor idles and a driver waits."""
    counter = Counter.options(resources={}).remote()
    ports = [nbray.get(counter.port.remote(), timeout=30), my_port()]
    stop = threading.Event()

    def knock() -> None:
        while not stop.is_set():
            for port in ports:
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.connect(("127.0.0.1", port))
                sock.close()  # by a reset

    knocking = threading.Thread(target=knock)
    knocking.start()
    try:
        for expected in range(1, 300):
            assert nbray.get(counter.add.remote(), timeout=30) == expected
    finally:
        stop.set()
        knocking.join()
    assert nbray.get(counter.add.remote(), timeout=30) == 300


def test_silent_strangers_take_no_descriptors(cluster: Path) -> None:
    """Hundreds of connections that never say a word do not keep a member out."""
    counter = Counter.options(resources={}).remote()
    port = nbray.get(counter.port.remote(), timeout=30)
    process = psutil.Process()
    before = process.num_fds()
    strangers = [socket.create_connection(("127.0.0.1", my_port())) for _ in range(400)]
    try:
        assert nbray.get(counter.add.remote(), timeout=30) == 1
        own = len(strangers)
        wait_until(lambda: process.num_fds() - before - own < 200, "the oldest to make way")
        assert nbray.get(nbray.remote(lambda: port).remote(), timeout=30) == port
    finally:
        for stranger in strangers:
            stranger.close()


# --- what is decided, without sockets --------------------


class Clocked:
    """A reactor whose time is a list of timers."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        self.timers.append((seconds, action))


class Broken:
    """A connection that cannot be made."""

    def __init__(self, dials: bool) -> None:
        self.dials = dials
        self.attempts = 0
        self.closed = self.connected = self.peer_ended = False
        self.reason = "refused"
        self.patience_s = 0.0
        self.state: Any = Address(b"worker", b"node", "", "", 1) if dials else None
        self.caller = (b"", b"") if dials else (b"worker", b"node")
        self.dialled = 0

    def dial(self) -> None:
        self.dialled += 1

    def close(self, reason: str) -> None:
        self.closed, self.reason = True, reason


class World:
    """Broken links with their timers, and the questions that the raylet was asked."""

    def __init__(self, patience_s: float = 60.0) -> None:
        self.reactor = Clocked()
        self.asked: list[Callable[[Any], None]] = []
        config = Config(peer_patience_s=patience_s, handshake_timeout_s=0.0)
        self.links = BrokenLinks(
            cast(Any, self.reactor), config, lambda _question, then: self.asked.append(then)
        )

    def pass_time(self) -> float:
        """The next timer is due; how long it had to wait."""
        seconds, action = self.reactor.timers.pop(0)
        action()
        return seconds


def test_a_broken_connection_is_made_again_at_once_and_then_less_often() -> None:
    world, connection = World(), Broken(dials=True)
    delays = []
    for _ in range(12):
        world.links.broken(cast(Any, connection))
        world.links.broken(cast(Any, connection))  # twice is once
        assert len(world.reactor.timers) == 1
        delays.append(world.pass_time())
    assert connection.dialled == 12
    assert delays[0] == 0.0
    assert delays == sorted(delays)
    assert delays[-1] == 1.0
    assert len(world.asked) == 1  # one question at a time


@pytest.mark.parametrize("dials", [True, False])
def test_only_the_raylets_word_is_a_death(dials: bool) -> None:
    world, connection = World(), Broken(dials)
    world.links.broken(cast(Any, connection))
    world.pass_time()
    world.links.broken(cast(Any, connection))
    world.asked.pop(0)(m.ProcessState(1, alive=True))
    assert not connection.closed
    world.pass_time()
    world.links.broken(cast(Any, connection))
    world.asked.pop(0)(m.ProcessState(2, alive=False))
    assert connection.closed
    assert connection.peer_ended


def test_who_broke_off_before_its_first_message_is_known_all_the_same() -> None:
    world, connection = World(), Broken(dials=False)
    world.links.broken(cast(Any, connection))
    assert len(world.asked) == 1
    assert not connection.closed
    nobody = Broken(dials=False)
    nobody.caller = (b"", b"")  # a member of no node: it has not registered
    world.links.broken(cast(Any, nobody))
    assert nobody.closed


def test_a_connection_that_was_made_again_starts_with_new_patience() -> None:
    world, connection = World(), Broken(dials=True)
    for _ in range(5):
        world.links.broken(cast(Any, connection))
        world.pass_time()
    connection.attempts = 0  # messages flowed, and then it broke again
    world.links.broken(cast(Any, connection))
    assert world.pass_time() == 0.0


def test_a_process_that_lives_and_is_out_of_reach_is_given_up_in_the_end() -> None:
    world, connection = World(patience_s=0.0), Broken(dials=True)
    while not connection.closed:
        world.links.broken(cast(Any, connection))
        if not connection.closed:
            world.pass_time()
    assert not connection.peer_ended
    assert "could not be reached" in connection.reason


def test_a_process_that_may_be_away_for_longer_is_not_given_up_with_the_others() -> None:
    world, connection = World(patience_s=0.0), Broken(dials=True)
    connection.patience_s = 3600.0
    for _ in range(100):
        world.links.broken(cast(Any, connection))
        world.pass_time()
    assert not connection.closed


def test_who_has_no_descriptor_left_connects_when_there_is_one(cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Pinged:
        def ping(self) -> int:
            return 1

    first, second = Pinged.remote(), Pinged.remote()
    assert nbray.get(first.ping.remote(), timeout=30) == 1
    with no_file_left():  # whatever earlier tests give back meanwhile
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        ref = second.ping.remote()
        assert not nbray.wait([ref], timeout=0.5)[0]
    assert nbray.get(ref, timeout=30) == 1
