"""What a user sees of each failure: the class, its attributes, its first line."""

from __future__ import annotations

import asyncio
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import (
    ActorDiedError,
    ActorHandleNotFoundError,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    ObjectReconstructionFailedError,
    TaskCancelledError,
    TaskError,
    WorkerCrashedError,
)
from nbray.testing import wait_until


@nbray.remote
def boom(error: BaseException) -> None:
    raise error


@nbray.remote
def identity(value: Any) -> Any:
    return value


@nbray.remote
class Account:
    def __init__(self, start: int = 0) -> None:
        self.value = 10 // start if start else 0

    def __repr__(self) -> str:
        return "Account 7"

    def take(self, key: str) -> None:
        raise KeyError(key)

    def die(self) -> None:
        os._exit(3)

    def leave(self) -> None:
        nbray.actor.exit_actor()

    def pid(self) -> int:
        return os.getpid()

    def sleep(self, path: str) -> None:
        Path(path).touch()
        time.sleep(60)


def failure(ref: Any) -> Any:
    with pytest.raises(nbray.exceptions.NbrayError) as caught:
        nbray.get(ref, timeout=30)
    return caught.value


def test_the_errors_of_tasks(cluster: Path) -> None:
    error = failure(boom.remote(ValueError("no")))
    assert isinstance(error, ValueError) and isinstance(error.cause, ValueError)
    assert re.fullmatch(r"nbray::boom\(\) \(pid=\d+, ip=[\d.]+\)", str(error).split("\n")[0])
    assert str(error).endswith("ValueError: no\n") and error.function_name == "boom"
    assert error.pid != os.getpid() and "nbray/core_worker" not in error.traceback_str

    @nbray.remote
    def local() -> None:
        raise ValueError("here")

    told = failure(local.remote()).traceback_str
    assert f'File "{__file__}", line ' in told and 'raise ValueError("here")' in told

    group = failure(boom.remote(ExceptionGroup("some", [KeyError(1), OSError(2)])))
    assert isinstance(group, ExceptionGroup) and len(group.exceptions) == 2

    # An interrupt in a worker must not look like one of whoever waits for it.
    interrupted = failure(boom.remote(KeyboardInterrupt()))
    assert isinstance(interrupted, TaskCancelledError)
    assert not isinstance(interrupted, KeyboardInterrupt)

    two = nbray.remote(num_returns=2)(lambda: (1, 2, 3)).remote()
    assert "ValueError: Task returned 3 objects, but num_returns=2." in str(failure(two[0]))


class WithRef(Exception):
    """An error that refers to a value."""

    def __init__(self, ref: nbray.ObjectRef) -> None:
        super().__init__(ref)
        self.ref = ref


def test_a_ref_in_an_error_can_be_used(cluster: Path) -> None:
    @nbray.remote
    def fail() -> None:
        raise WithRef(nbray.put("what it is about"))

    error = failure(fail.remote())
    assert isinstance(error, WithRef)
    assert nbray.get(error.ref, timeout=30) == "what it is about"


def test_an_error_is_passed_on_with_the_root_cause_first(cluster: Path) -> None:
    @nbray.remote
    def outer() -> None:
        nbray.get(boom.remote(ValueError("deep")))

    for ref in (outer.remote(), identity.remote(boom.remote(ValueError("deep")))):
        error = failure(ref)
        assert isinstance(error, TaskError) and isinstance(error, ValueError)
        assert error.cause.args == ("deep",)
        lines = str(error).rstrip().split("\n")
        assert lines[-1] == "ValueError: deep"
        passed_on, root = (i for i, line in enumerate(lines) if line.startswith("nbray::"))
        assert lines[passed_on].startswith(f"nbray::{error.function_name}()")
        assert lines[root].startswith("nbray::boom()")
        if error.function_name == "outer":
            assert "in outer" in str(error)[str(error).index("Which the task met here") :]
        else:
            assert "At least one of the input arguments" in lines[passed_on + 1]


def test_the_errors_of_actors(cluster: Path) -> None:
    account = Account.remote()
    error = failure(account.take.remote("none"))
    assert isinstance(error, KeyError)
    assert re.match(
        r"nbray::Account\.take\(\) \(pid=\d+, ip=[\d.]+, actor_id=\w+, repr=Account 7\)\n",
        str(error),
    )
    actor_id = error.actor_id

    first = "The actor died unexpectedly before finishing this task."
    for call in (account.die, account.pid):
        error = failure(call.remote())
        assert isinstance(error, ActorDiedError) and str(error).split("\n")[0] == first
        assert "class_name: Account" in str(error) and "exit status 3" in str(error)
        assert (error.actor_id, error.actor_init_failed, error.preempted) == (
            actor_id,
            False,
            False,
        )

    killed = Account.remote()
    nbray.kill(killed)
    assert "killed by `nbray.kill`" in str(failure(killed.pid.remote()))
    assert "exit_actor() is called" in str(failure(Account.remote().leave.remote()))

    class Broken:
        def __init__(self) -> None:
            raise RuntimeError("no start")

        def pid(self) -> int:
            return os.getpid()

    error = failure(nbray.remote(Broken).remote().pid.remote())
    assert isinstance(error, ActorDiedError) and error.actor_init_failed
    assert re.match(
        "The actor died because of an error raised in its creation task, "
        r"nbray::.*Broken\.__init__\(\) \(pid=\d+",
        str(error),
    )
    assert "RuntimeError: no start" in str(error)


def test_an_actor_that_comes_back_is_unavailable_meanwhile(cluster: Path, tmp_path: Path) -> None:
    account = Account.options(max_restarts=-1).remote()
    pid = nbray.get(account.pid.remote())
    call = account.sleep.remote(str(tmp_path / "began"))
    wait_until((tmp_path / "began").exists, "the start of the call")
    os.kill(pid, 9)
    error = failure(call)
    assert isinstance(error, ActorUnavailableError) and error.actor_id in str(error)
    assert "may or may not have been executed on the actor" in str(error)
    assert nbray.get(account.pid.options(max_task_retries=-1).remote(), timeout=30) != pid


def test_a_get_that_is_late_says_how_much_is_missing(cluster: Path) -> None:
    blocked = identity.options(num_cpus=50).remote(1)
    with pytest.raises(GetTimeoutError, match=r"^Get timed out: some object\(s\) not ready\."):
        nbray.get([nbray.put(1), blocked], timeout=0.05)
    nbray.cancel(blocked)
    assert isinstance(failure(blocked), TaskCancelledError)


def test_a_cancelled_task_says_so(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote
    def sleep(path: str) -> None:
        Path(path).touch()
        time.sleep(60)

    @nbray.remote
    class Sleeper:
        async def sleep(self, path: str) -> None:
            Path(path).touch()
            await asyncio.sleep(60)

    sleeper = Sleeper.remote()
    for i, call in enumerate((sleep, sleeper.sleep)):
        ref = call.remote(str(tmp_path / str(i)))
        wait_until((tmp_path / str(i)).exists, "its start")
        nbray.cancel(ref)
        error = failure(ref)
        assert isinstance(error, TaskCancelledError) and isinstance(error, TaskError)
        told = str(error).rstrip().split("\n")[-1]
        assert re.match(
            r"nbray\.exceptions\.TaskCancelledError: Task .*sleep was cancelled\.", told
        )
        assert error.task_id == error.cause.task_id == ref.task_id()
    assert str(TaskCancelledError(ref.task_id())) == f"Task: {ref.task_id()} was cancelled. "


def test_reconstruction_failures_are_of_one_kind() -> None:
    for name in ("MaxAttemptsExceeded", "LineageEvicted"):
        kind = getattr(nbray.exceptions, f"ObjectReconstructionFailed{name}Error")
        assert issubclass(kind, ObjectReconstructionFailedError)


def test_what_is_kept_from_before_a_shutdown_says_so(session_root: Path) -> None:
    nbray.init(num_cpus=1)
    ref, task = nbray.put([1]), identity.remote(2)
    account = Account.remote()
    nbray.shutdown()
    nbray.init(num_cpus=1)
    for use in (
        lambda: nbray.get(ref),
        lambda: nbray.get([ref, task]),
        lambda: nbray.wait([task]),
        lambda: identity.remote(ref),
        lambda: identity.remote([ref]),
        lambda: nbray.put([ref]),
        lambda: ref.future(),
    ):
        with pytest.raises(ValueError, match=r"whose owner is unknown.*earlier session"):
            use()
    for old in (lambda: account.pid.remote(), lambda: nbray.kill(account)):
        with pytest.raises(ActorHandleNotFoundError, match="not valid across nbray sessions"):
            old()
    assert nbray.get(identity.remote(3), timeout=30) == 3


def test_get_raises_as_soon_as_one_of_several_has_failed(cluster: Path, tmp_path: Path) -> None:
    go = tmp_path / "go"

    @nbray.remote(num_cpus=0)
    def stays() -> str:
        wait_until(go.exists, "the word to go on", 60)
        return "stayed"

    @nbray.remote(num_cpus=0)
    def reads(refs: list[Any]) -> Any:
        return nbray.get(refs, timeout=30)

    def fails() -> Any:
        return boom.options(num_cpus=0).remote(ValueError("early"))

    staying, failed = stays.remote(), fails()
    assert nbray.wait([staying, failed], timeout=30) == ([failed], [staying])
    for refs in ([staying, fails()], [fails(), staying], [staying, failed]):
        for read in (nbray.get, lambda refs, timeout: nbray.get(reads.remote(refs), timeout=30)):
            with pytest.raises(ValueError, match="early"):
                read(refs, timeout=30)
    assert nbray.wait([staying, failed], num_returns=2, timeout=0.1) == ([failed], [staying])
    go.touch()
    assert nbray.get([staying, staying], timeout=30) == ["stayed", "stayed"]


def test_programs_make_errors_as_rays_constructors_do() -> None:
    """Their own tests raise them in the place of a cluster."""
    unavailable = ActorUnavailableError("it restarts", None)
    assert str(unavailable).startswith("The actor None is unavailable: it restarts.")
    named = ActorUnavailableError("it restarts", b"\1" * 16)
    assert named.actor_id == "01" * 16 and "01" * 16 in str(named)
    for error in (unavailable, named):
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.actor_id) == (str(error), error.actor_id)
    assert "worker died unexpectedly" in str(WorkerCrashedError())
    assert "local raylet died" in str(LocalRayletDiedError())
