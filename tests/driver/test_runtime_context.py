"""What code learns of where it runs, by `get_runtime_context` and by ids."""

from __future__ import annotations

from pathlib import Path

import pytest

import nbray
from nbray.exceptions import ActorAlreadyExistsError, NbraySystemError
from nbray.testing import wait_until
from nbray.util import get_node_ip_address, list_named_actors


def test_a_driver_knows_its_job_its_node_and_its_cluster(cluster: Path) -> None:
    context = nbray.get_runtime_context()
    assert context.get_node_id() == nbray.nodes()[0]["NodeID"]
    assert context.get_job_id() == context.job_id.hex()
    assert nbray.JobID.from_int(context.job_id.int()) == context.job_id
    assert context.get_task_id() is context.get_actor_id() is context.get_task_name() is None
    assert context.gcs_address.startswith("127.0.0.1:")
    assert Path(context.get_temp_dir(), context.get_session_name(), "logs").is_dir()
    assert context.get()["node_id"] == context.node_id
    with pytest.raises(AssertionError, match="only available when the process is a worker"):
        context.get_assigned_resources()
    with pytest.raises(RuntimeError, match="only available in an actor"):
        _ = context.current_actor


def test_a_task_knows_its_name_its_function_and_its_resources(cluster: Path) -> None:
    @nbray.remote(num_cpus=0.5, resources={"custom": 0.25})
    def facts() -> tuple[object, ...]:
        context = nbray.get_runtime_context()
        return (
            context.get_task_name(),
            context.get_task_function_name(),
            context.get_assigned_resources(),
            context.get_task_id(),
        )

    ref = facts.remote()
    name, function, resources, task_id = nbray.get(ref)
    assert name == "facts"
    assert str(function).startswith(__name__) and str(function).endswith(".facts")
    assert resources == {"CPU": 0.5, "custom": 0.25}
    assert task_id == ref.task_id().hex()
    assert nbray.get(facts.options(name="mine").remote())[0] == "mine"


def test_an_actor_knows_itself_and_whether_it_was_restarted(cluster: Path) -> None:
    @nbray.remote(max_restarts=1, num_cpus=1)
    class Counter:
        def __init__(self) -> None:
            self.count = 0
            self.born = nbray.get_runtime_context().get_task_name()

        def add(self) -> int:
            self.count += 1
            return self.count

        def facts(self) -> tuple[object, ...]:
            context = nbray.get_runtime_context()
            return (
                context.get_actor_name(),
                context.get_task_name(),
                context.get_assigned_resources(),
                context.was_current_actor_reconstructed,
                self.born,
            )

        def myself(self) -> nbray.ActorHandle:
            return nbray.get_runtime_context().current_actor

    counter = Counter.options(name="counter").remote()
    assert nbray.get(counter.facts.remote()) == (
        "counter", "Counter.facts", {"CPU": 1.0}, False, "Counter.__init__",
    )  # fmt: skip
    again = nbray.get(counter.myself.remote())
    assert nbray.get([counter.add.remote(), again.add.remote()]) == [1, 2]
    nbray.kill(counter, no_restart=False)

    def restarted() -> bool:
        try:
            return bool(nbray.get(counter.facts.remote())[3])
        except nbray.exceptions.ActorError:
            return False

    wait_until(restarted, "the actor runs again and knows it")


def test_init_inside_a_task_is_harmless_when_it_is_said_to_be(cluster: Path) -> None:
    @nbray.remote
    def joins() -> tuple[str, str]:
        with pytest.raises(RuntimeError, match="Maybe you called"):
            nbray.init()
        context = nbray.init(ignore_reinit_error=True)
        return context["gcs_address"], context["node_id"]

    context = nbray.get_runtime_context()
    assert nbray.get(joins.remote()) == (context.gcs_address, context.get_node_id())


def test_what_a_running_cluster_has_cannot_be_given_by_who_joins(cluster: Path) -> None:
    address = nbray.get_runtime_context().gcs_address

    @nbray.remote
    def joined(options: dict[str, object]) -> str:
        import subprocess
        import sys

        program = f"import nbray; nbray.init({address!r}, **{options!r})"
        ended = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        return ended.stderr.strip().rpartition("\n")[2]

    refs = [joined.remote({"num_cpus": 1}), joined.remote({"resources": {}}), joined.remote({})]
    cpus, resources, fine = nbray.get(refs)
    assert cpus.startswith("ValueError: When connecting to an existing cluster, num_cpus and ")
    assert resources.startswith("ValueError: When connecting to an existing cluster, resources ")
    assert fine == ""


def test_what_init_does_not_know_is_refused(session_root: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Unknown keyword argument\(s\): num_cpu, tempdir"):
        nbray.init(num_cpu=1, tempdir="x")
    with pytest.raises(RuntimeError, match="`local_mode` is not supported"):
        nbray.init(local_mode=True)
    with pytest.raises(NbraySystemError, match="nbray has not been started yet"):
        nbray.nodes()
    assert not nbray.is_initialized()


def test_output_stays_in_the_logs_when_the_driver_does_not_want_it(
    session_root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    nbray.init(num_cpus=1, log_to_driver=False)
    try:

        @nbray.remote
        def speak() -> Path:
            print("for the log alone", flush=True)
            context = nbray.get_runtime_context()
            return Path(context.get_temp_dir(), context.get_session_name(), "logs")

        logs = nbray.get(speak.remote())
        wait_until(
            lambda: any("for the log alone" in log.read_text() for log in logs.iterdir()),
            "the line is in a log",
        )
        nbray.get(speak.remote())
    finally:
        nbray.shutdown()
    assert "for the log alone" not in capfd.readouterr().out


def test_ids_say_what_they_belong_to(cluster: Path) -> None:
    ref = nbray.put(1)
    job = nbray.get_runtime_context().job_id
    assert ref.job_id() == ref.task_id().job_id() == job
    assert not ref.is_nil()
    assert len(ref.binary()) == nbray.ObjectRef.size() == nbray.ObjectID.size()
    for kind in (nbray.JobID, nbray.NodeID, nbray.TaskID, nbray.ActorID, nbray.ObjectID):
        nil = kind.nil()
        assert nil.is_nil() and len(nil.binary()) == kind.size()
        assert kind.from_binary(nil.binary()) == kind.from_hex(nil.hex()) == nil
    assert not nbray.NodeID.from_random().is_nil()


def test_named_actors_are_listed_by_namespace(cluster: Path) -> None:
    @nbray.remote(num_cpus=0)
    class Quiet:
        pass

    here = Quiet.options(name="here").remote()
    there = Quiet.options(name="there", namespace="other").remote()
    nbray.get([here.__ray_ready__.remote(), there.__ray_ready__.remote()])
    assert list_named_actors() == ["here"]
    assert {"name": "there", "namespace": "other"} in list_named_actors(all_namespaces=True)
    with pytest.raises(ActorAlreadyExistsError, match="already taken"):
        Quiet.options(name="here").remote()
    assert get_node_ip_address() == nbray.nodes()[0]["NodeManagerAddress"]


def test_wait_and_get_refuse_what_is_no_ref(cluster: Path) -> None:
    ref = nbray.put(1)
    assert nbray.wait([]) == ([], [])
    with pytest.raises(ValueError, match=r"must be nonnegative. Received -1"):
        nbray.wait([ref], timeout=-1)
    for wrong, message in (
        (ref, "a single nbray.ObjectRef"),
        ((ref,), "<class 'tuple'>"),
        ([ref, 1], "list containing <class 'int'>"),
    ):
        with pytest.raises(TypeError, match=message):
            nbray.wait(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Invalid type of object refs, <class 'tuple'>"):
        nbray.get((ref,))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Attempting to call `get` on the value 1"):
        nbray.get([ref, 1])  # type: ignore[list-item]
