"""When it dies x how it dies -> what the user sees, and then the next call works.

A row is a moment in the life of a task or an actor; `SEEN` has what comes of each way to die there.
No memory left is in tests/raylet/test_memory_monitor.py, which needs a cluster of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.dying import DiesWhenDeleted, DiesWhenPickled, DiesWhenUnpickled, die

import nbray
from nbray.exceptions import ActorDiedError, TaskError, WorkerCrashedError
from nbray.testing import Gate, wait_until

HOW = ["exception", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV"]
QUICK = {"exception", "os._exit", "SIGKILL"}


@nbray.remote(max_retries=0)
def runs(how: str) -> str:
    die(how)
    return "done"


@nbray.remote(max_retries=0)
def takes(_argument: Any) -> str:
    return "done"


@nbray.remote(max_retries=0)
def returns(how: str) -> Any:
    return DiesWhenPickled(how)


@nbray.remote(max_retries=0)
def deletes(how: str) -> str:
    value = DiesWhenDeleted(how)
    del value
    return "done"


@nbray.remote(max_retries=0)
def yields(how: str) -> Iterator[str]:
    yield "first"
    die(how)
    yield "done"


@nbray.remote(num_cpus=0)
class Plain:
    def __init__(self, how: str = "not") -> None:
        die(how)

    def run(self, how: str = "not") -> str:
        die(how)
        return "done"

    def take(self, _argument: Any) -> str:
        return "done"

    def give(self, how: str) -> Any:
        return DiesWhenPickled(how)

    def items(self, how: str) -> Iterator[str]:
        yield "first"
        die(how)
        yield "done"


@nbray.remote(num_cpus=0)
class Async:
    def __init__(self, how: str = "not") -> None:
        die(how)

    async def run(self, how: str = "not") -> str:
        die(how)
        return "done"


def second(stream: Any) -> Any:
    """The item behind the one during which nothing dies."""
    assert nbray.get(next(stream), timeout=60) == "first"
    return nbray.get(next(stream), timeout=60)


Call = Callable[[str, Any], Any]
TASKS: dict[str, Call] = {
    "while its argument is unpickled": lambda how, _: got(takes.remote(DiesWhenUnpickled(how))),
    "in the function": lambda how, _: got(runs.remote(how)),
    "while its result is pickled": lambda how, _: got(returns.remote(how)),
    "between two items": lambda how, _: second(yields.remote(how)),
}
METHODS: dict[str, Call] = {
    "in the method": lambda how, actor: got(actor.run.remote(how)),
    "while its argument is unpickled": lambda how, actor: got(
        actor.take.remote(DiesWhenUnpickled(how))
    ),
    "while its result is pickled": lambda how, actor: got(actor.give.remote(how)),
    "between two items": lambda how, actor: second(actor.items.remote(how)),
}
ACTORS: dict[str, Callable[..., Any]] = {
    "plain": Plain.remote,
    "async": Async.remote,
    "of threads": lambda *args: Plain.options(max_concurrency=2).remote(*args),
}
FACTS = {  # signal and exit status
    "sys.exit": ("", 3), "os._exit": ("", 3), "SIGKILL": ("SIGKILL", None),
    "SIGSEGV": ("SIGSEGV", None),
}  # fmt: skip


def got(ref: nbray.ObjectRef) -> Any:
    return nbray.get(ref, timeout=60)


def table(rows: list[tuple[Any, ...]]) -> list[Any]:
    """Every row with every way to die; those of the default suite are the ways that differ most."""
    return [
        pytest.param(*row, how, marks=[] if how in QUICK else pytest.mark.slow)
        for row in rows
        for how in HOW
    ]


def expect_death(error: Any, how: str) -> None:
    """An end of a process is told with its facts, as text and as fields."""
    signal_name, exit_code = FACTS[how]
    assert (error.signal_name, error.exit_code) == (signal_name, exit_code)
    assert error.pid and not psutil.pid_exists(error.pid)
    assert (signal_name or f"exit status {exit_code}") in str(error)


@pytest.mark.parametrize(("when", "how"), table([(when,) for when in TASKS]))
def test_a_task_dies(module_cluster: Path, when: str, how: str) -> None:
    kind = TaskError if how == "exception" else WorkerCrashedError
    with pytest.raises(kind) as caught:
        TASKS[when](how, None)
    if how == "exception":
        assert isinstance(caught.value, ValueError) and caught.value.pid
        assert "how it dies" in str(caught.value)
    else:
        expect_death(caught.value, how)
    assert TASKS[when]("not", None) in ("done", "", None)


@pytest.mark.parametrize("how", ["exception", "sys.exit", "os._exit", "SIGKILL", "SIGSEGV"])
def test_a_value_dies_while_it_is_deleted(module_cluster: Path, how: str) -> None:
    """Python ignores what a finalizer raises, also SystemExit; a process that ends has ended."""
    if how in ("exception", "sys.exit"):
        assert got(deletes.remote(how)) == "done"
    else:
        with pytest.raises(WorkerCrashedError) as caught:
            got(deletes.remote(how))
        expect_death(caught.value, how)
    assert got(deletes.remote("not")) == "done"


@pytest.mark.parametrize(("kind", "how"), table([(kind,) for kind in ACTORS]))
def test_an_actor_dies_in_its_constructor(module_cluster: Path, kind: str, how: str) -> None:
    actor = ACTORS[kind](how)
    for _ in range(2):  # whoever calls, and whenever
        with pytest.raises(ActorDiedError) as caught:
            got(actor.run.remote())
        assert caught.value.actor_init_failed == (how == "exception")
        if how == "exception":
            assert "ValueError: how it dies" in str(caught.value)
        else:
            expect_death(caught.value, how)
    assert got(ACTORS[kind]().run.remote()) == "done"


ROWS = [(kind, when) for kind in ("plain", "of threads") for when in METHODS]


@pytest.mark.parametrize(("kind", "when", "how"), table([*ROWS, ("async", "in the method")]))
def test_an_actor_dies_in_a_call(module_cluster: Path, kind: str, when: str, how: str) -> None:
    actor = ACTORS[kind]()
    if how == "exception":
        with pytest.raises(TaskError) as raised:
            METHODS[when](how, actor)
        assert isinstance(raised.value, ValueError) and raised.value.pid
        assert got(actor.run.remote()) == "done", "it lives on"
        return
    with pytest.raises(ActorDiedError) as caught:
        METHODS[when](how, actor)
    expect_death(caught.value, how)
    with pytest.raises(ActorDiedError) as again:
        got(actor.run.remote())
    expect_death(again.value, how)
    assert got(ACTORS[kind]().run.remote()) == "done"


@pytest.mark.parametrize("how", ["os._exit", "SIGKILL"])
def test_a_worker_dies_between_a_reply_and_the_next_task(
    module_cluster: Path, tmp_path: Path, how: str
) -> None:
    """What was answered stays, and what comes next runs elsewhere."""
    gate = Gate(tmp_path)

    @nbray.remote(max_retries=0)
    def leaves_a_thread() -> int:
        def later() -> None:
            gate.wait_here()
            die(how)

        threading.Thread(target=later, daemon=True).start()
        return psutil.Process().pid

    pid = got(leaves_a_thread.remote())
    gate.wait_for(1)
    gate.open()
    wait_until(lambda: not psutil.pid_exists(pid), "the end of the worker")
    assert got(runs.options(max_retries=1).remote("not")) == "done"


@pytest.mark.parametrize("how", ["sys.exit", "os._exit", "SIGKILL", "SIGSEGV"])
def test_a_task_that_may_be_run_again_is(module_cluster: Path, tmp_path: Path, how: str) -> None:
    @nbray.remote(max_retries=1)
    def dies_once() -> str:
        if not (tmp_path / how).exists():
            (tmp_path / how).touch()
            die(how)
        return "done"

    assert got(dies_once.remote()) == "done"


def test_a_value_that_fails_in_the_drivers_hands_hurts_that_line_only(module_cluster: Path) -> None:
    """It raises where it is pickled, at that line; what is unpickled raises in each `get`."""
    with pytest.raises(ValueError, match="how it dies"):
        takes.remote(DiesWhenPickled("exception"))
    with pytest.raises(ValueError, match="how it dies"):
        nbray.put(DiesWhenPickled("exception"))
    ref = nbray.put(DiesWhenUnpickled("exception"))
    for _ in range(2):
        with pytest.raises(Exception, match="how it dies"):
            got(ref)
    assert got(takes.remote(1)) == "done"
