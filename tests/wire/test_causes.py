"""Causes: facts that a program can read, and one exception for each kind."""

from __future__ import annotations

import os
import pickle
import signal

import msgspec
import pytest

import nbray
from nbray.core_worker.failures import call_error, task_error, value_error
from nbray.exceptions import (
    ActorDiedError,
    ActorError,
    NbrayError,
    ProcessDeath,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
from nbray.wire.causes import Cause, CauseKind

FACTS = Cause(
    CauseKind.ENDED, "it ended.", 7, b"\x01" * 28, signal.SIGSEGV, None, 3 << 20, "one\ntwo\n", True
)


@pytest.mark.parametrize("kind", CauseKind)
def test_every_kind_is_an_error_for_whoever_meets_it(kind: CauseKind) -> None:
    cause = msgspec.structs.replace(FACTS, kind=kind)
    for error in (task_error(cause), call_error(cause, "ab", "Actor.method"), value_error(cause)):
        assert isinstance(error, NbrayError)
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        if isinstance(error, ActorError):
            assert error.actor_init_failed == (kind is CauseKind.CONSTRUCTOR_RAISED)
        if isinstance(error, ProcessDeath):
            assert (error.pid, error.signal_name, error.exit_code) == (7, "SIGSEGV", None)


def test_a_cause_travels_whole() -> None:
    there = msgspec.msgpack.decode(msgspec.msgpack.encode(FACTS), type=Cause)
    assert there == FACTS
    assert str(there) == "it ended; its last lines of stderr:\none\ntwo"


def test_what_no_text_decides(cluster: None) -> None:
    """A program may word its errors as it likes; they stay what they are."""

    @nbray.remote
    class Actor:
        def __init__(self) -> None:
            raise ValueError(
                "Failed to set up runtime environment. its placement group was removed"
            )

        def method(self) -> None: ...

    @nbray.remote
    class Leaves:
        def __init__(self) -> None:
            nbray.actor.exit_actor()

        def method(self) -> None: ...

    with pytest.raises(ActorDiedError) as raised:
        nbray.get(Actor.remote().method.remote(), timeout=60)
    assert raised.value.actor_init_failed
    with pytest.raises(ActorDiedError) as raised:
        nbray.get(Leaves.remote().method.remote(), timeout=60)
    assert not raised.value.actor_init_failed


def test_facts_of_a_process_that_ended(cluster: None) -> None:
    @nbray.remote(max_retries=0)
    def end(status: int) -> None:
        os.write(2, b"the last line\n")
        if status < 0:
            os.kill(os.getpid(), -status)
        os._exit(status)

    with pytest.raises(WorkerCrashedError) as raised:
        nbray.get(end.remote(-signal.SIGSEGV), timeout=60)
    by_signal = raised.value
    assert by_signal.signal_name == "SIGSEGV"
    assert by_signal.exit_code is None
    with pytest.raises(WorkerCrashedError) as raised:
        nbray.get(end.remote(3), timeout=60)
    by_itself = raised.value
    assert (by_itself.signal_name, by_itself.exit_code) == ("", 3)
    for error in (by_signal, by_itself):
        assert error.pid is not None and f"pid {error.pid}" in str(error)
        assert error.node_id == nbray.get_runtime_context().get_node_id()
        assert error.peak_memory > 1 << 20
        assert "the last line" in error.last_lines


def test_facts_of_an_actor_that_ended(cluster: None) -> None:
    @nbray.remote
    class Actor:
        def pid(self) -> int:
            return os.getpid()

        def end(self) -> None:
            os._exit(9)

    actor = Actor.remote()
    pid = nbray.get(actor.pid.remote(), timeout=60)
    with pytest.raises(ActorDiedError) as raised:
        nbray.get(actor.end.remote(), timeout=60)
    assert (raised.value.pid, raised.value.exit_code) == (pid, 9)
    with pytest.raises(ActorDiedError) as raised:
        nbray.get(actor.pid.remote(), timeout=60)
    assert (raised.value.pid, raised.value.exit_code) == (pid, 9)


def test_an_environment_that_fails_is_told_of_an_actor_as_of_a_task(cluster: None) -> None:
    @nbray.remote(runtime_env={"working_dir": "gcs://there-is-no-such.zip"})
    class Actor:
        def method(self) -> None: ...

    @nbray.remote(runtime_env={"working_dir": "gcs://there-is-no-such.zip"})
    def task() -> None: ...

    for ref in (Actor.remote().method.remote(), task.remote()):
        with pytest.raises(RuntimeEnvSetupError):
            nbray.get(ref, timeout=60)
