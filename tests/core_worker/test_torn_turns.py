"""Nothing that happens inside a turn of the reactor breaks the process: signals, the end of the
stack, text that cannot be encoded, forks of time limits."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import nbray
from nbray.common.config import Config
from nbray.testing import Gate, wait_until
from nbray.wire.connection import Connection
from nbray.wire.connections import Connections
from nbray.wire.reactor import Reactor
from nbray.wire.waiting import Waiter


class OutOfTime(Exception):
    """A time limit is over."""


@pytest.fixture
def handling() -> Iterator[Callable[..., None]]:
    """Sets a signal's handler for the time of a test."""
    before: dict[int, Any] = {}

    def handle(signum: int, handler: Callable[[int, FrameType | None], None]) -> None:
        before.setdefault(signum, signal.getsignal(signum))
        signal.signal(signum, handler)

    yield handle
    signal.setitimer(signal.ITIMER_REAL, 0)
    for signum, handler in before.items():
        signal.signal(signum, handler)


armed = False


def raise_out_of_time(_signum: int, _frame: FrameType | None) -> None:
    if armed:
        raise OutOfTime


@nbray.remote
def echo(value: Any) -> Any:
    return value


def limited_rounds(echo: Any, rounds: int) -> int:
    """Submit and get under time limits that run out anywhere; how many did.

    The alarm comes again: an exception that falls into a `__del__` is lost, as Python says.
    """
    global armed
    hits = 0
    for i in range(rounds):
        armed = True
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0001 * (i % 17), 0.05)
            while True:
                nbray.get([echo.remote(i) for _ in range(20)], timeout=20)
        except OutOfTime:
            armed = False
            hits += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert nbray.get([echo.remote(i) for i in range(50)], timeout=30) == list(range(50))
    return hits


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_time_limit_that_raises_tears_nothing(
    cluster: Path, handling: Callable[..., None]
) -> None:
    handling(signal.SIGALRM, raise_out_of_time)
    assert nbray.get(echo.remote(1), timeout=30) == 1
    assert limited_rounds(echo, 100) == 100


def test_no_interrupt_is_lost_in_a_loop_that_drops_refs(cluster: Path) -> None:
    """Python drops what is raised while an object is deleted."""
    rounds = 200
    begun = threading.Event()

    def interrupt() -> None:
        for _ in range(rounds):
            begun.wait()
            begun.clear()
            os.kill(os.getpid(), signal.SIGINT)

    def comes() -> bool:
        end = time.monotonic() + 20
        try:
            begun.set()
            while time.monotonic() < end:
                for _ in range(1000):
                    nbray.ObjectRef.from_random()
        except KeyboardInterrupt:
            return True
        return False

    threading.Thread(target=interrupt, daemon=True).start()
    assert all(comes() for _ in range(rounds))
    assert nbray.get(echo.remote(1), timeout=30) == 1


def test_a_time_limit_in_a_task_tears_nothing(cluster: Path) -> None:
    @nbray.remote(max_retries=0)
    def nested() -> tuple[int, int]:
        signal.signal(signal.SIGALRM, raise_out_of_time)
        return limited_rounds(echo, 40), os.getpid()

    hits, pid = nbray.get(nested.remote(), timeout=60)
    assert hits == 40
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1
    assert os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_handler_that_does_not_raise_ends_no_wait(
    cluster: Path, handling: Callable[..., None], signum: int, tmp_path: Path
) -> None:
    came: list[Any] = []
    handling(signum, lambda number, frame: came.append((number, type(frame).__name__)))
    slow = nbray.remote(lambda gate: gate.wait_here() or "done")

    def send(gate: Gate, count: int) -> None:
        """The task ends when the signal has been handled, while somebody waits for it."""
        gate.wait_for(1)
        time.sleep(0.1)
        os.kill(os.getpid(), signum)
        wait_until(lambda: len(came) == count, "the handler")
        gate.open()

    gates = [Gate(tmp_path), Gate(tmp_path)]
    ref = slow.remote(gates[0])
    assert nbray.wait([ref], timeout=0.01)[0] == []
    threading.Thread(target=send, args=(gates[0], 1)).start()
    assert nbray.get(ref) == "done"
    assert came == [(signum, "frame")]
    ref = slow.remote(gates[1])
    threading.Thread(target=send, args=(gates[1], 2)).start()
    assert nbray.wait([ref], timeout=60) == ([ref], [])
    assert len(came) == 2
    assert nbray.get(echo.remote(1), timeout=20) == 1
    assert signal.getsignal(signum) not in (signal.SIG_DFL, signal.SIG_IGN)


def test_several_signals_at_once_all_reach_their_handlers(
    cluster: Path, handling: Callable[..., None]
) -> None:
    came = []

    def interrupted(_signum: int, _frame: FrameType | None) -> None:
        came.append("int")
        raise KeyboardInterrupt

    handling(signal.SIGINT, interrupted)
    handling(signal.SIGUSR1, lambda *_: came.append("usr1"))
    handling(signal.SIGUSR2, lambda *_: came.append("usr2"))

    def send() -> None:
        for signum in (signal.SIGUSR1, signal.SIGINT, signal.SIGUSR2):
            os.kill(os.getpid(), signum)

    with pytest.raises(KeyboardInterrupt):
        threading.Timer(0.2, send).start()
        nbray.get(nbray.remote(lambda: time.sleep(30)).remote())
    # The one that raises may be handled before the last one is sent.
    wait_until(lambda: sorted(came) == ["int", "usr1", "usr2"], "all of them")
    assert nbray.get(echo.remote(1), timeout=20) == 1


def test_work_that_is_submitted_at_the_end_of_the_stack_is_done(cluster: Path) -> None:
    refs: list[Any] = []

    def dive() -> int:
        refs.append(echo.remote(len(refs)))
        if len(refs) % 10 == 0:
            nbray.get(refs[-1], timeout=20)
        return dive() + 1

    for _ in range(3):
        refs.clear()
        with pytest.raises((RecursionError, pickle.PicklingError)):
            dive()
        assert nbray.get(refs, timeout=30) == list(range(len(refs)))
        assert nbray.get(echo.remote(1), timeout=30) == 1


ODD = "caf\udce9.csv"


def test_text_that_is_no_utf_8_reaches_the_driver_or_fails_its_own_call(
    cluster: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    @nbray.remote(max_retries=0)
    def says() -> str:
        print("found", ODD, flush=True)
        print("found", ODD, file=sys.stderr, flush=True)
        return ODD

    @nbray.remote(max_retries=0)
    def raises() -> None:
        raise ValueError(ODD)

    @nbray.remote
    class Says:
        def __init__(self) -> None:
            self.count = 0

        def says(self) -> int:
            print("actor found", ODD, flush=True)
            self.count += 1
            return self.count

    assert nbray.get(says.remote(), timeout=30) == ODD
    with pytest.raises(ValueError, match="caf"):
        nbray.get(raises.remote(), timeout=30)
    actor = Says.remote()
    assert [nbray.get(actor.says.remote(), timeout=30) for _ in range(2)] == [1, 2]
    with pytest.raises(ValueError, match="'name' is no Unicode text"):
        echo.options(name=ODD)
    assert nbray.get([echo.remote(i) for i in range(40)], timeout=30) == list(range(40))


# --- the reactor alone --------------------


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    reactor.start()
    yield reactor
    reactor.stop()


def test_an_action_that_fails_loses_none_behind_it(reactor: Reactor) -> None:
    done: list[int] = []
    waiter = Waiter(3)

    def fail() -> None:
        raise RecursionError

    for number in range(3):
        reactor.inbox.append(fail)
        reactor.inbox.append(lambda number=number: done.append(number) or waiter.complete_one())
        reactor.call_later(0.0, fail)
    assert reactor.wait(waiter, timeout=20)
    assert done == [0, 1, 2]


def test_a_write_that_fails_loses_no_other_connection(reactor: Reactor) -> None:
    """What all connections of one turn have queued leaves, whatever becomes of one of them."""
    flushed = []
    waiter = Waiter(3)

    class Bad(Connection):
        def flush(self) -> None:
            flushed.append("bad")
            waiter.complete_one()
            raise RecursionError

    class Good(Connection):
        def flush(self) -> None:
            flushed.append("good")
            waiter.complete_one()

    for kind in (Good, Bad, Good):
        reactor.dirty.append(
            kind(Connections(reactor, b"token", Config()), lambda *_: None, lambda _: None)
        )
    reactor.notify()
    assert reactor.wait(waiter, timeout=20)
    assert flushed == ["good", "bad", "good"]
