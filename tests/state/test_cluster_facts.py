"""What a program reads of its cluster, by Ray's names: resources, nodes, ids, who printed."""

from __future__ import annotations

import pickle
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal

import nbray
from nbray import ObjectRef
from nbray.testing import wait_until
from nbray.util import deregister_serializer, log_once, register_serializer
from nbray.util.placement_group import placement_group
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


def test_a_node_is_a_resource_of_which_tasks_ask_a_part(cluster: Path) -> None:
    (node,) = nbray.nodes()
    name = f"node:{node['NodeManagerAddress']}"
    assert {name, "node:__internal_head__", "CPU", "memory"} < node["Resources"].keys()
    assert nbray.cluster_resources()[name] == nbray.available_resources()[name] == 1.0

    @nbray.remote(resources={name: 0.25}, num_cpus=0)
    def here() -> str:
        return nbray.get_runtime_context().get_node_id()

    @nbray.remote(resources={"node:__internal_head__": 0.001}, num_cpus=0)
    class OfTheHead:
        def node(self) -> str:
            return nbray.get_runtime_context().get_node_id()

    actor = OfTheHead.remote()
    assert nbray.get([here.remote() for _ in range(8)], timeout=30) == [node["NodeID"]] * 8
    assert nbray.get(actor.node.remote(), timeout=30) == node["NodeID"]


def test_what_is_used_up_is_left_out_of_what_is_free(cluster: Path) -> None:
    @nbray.remote(num_cpus=2, resources={"custom": 0.5})
    class Holder:
        def ready(self) -> None:
            pass

    holder = Holder.remote()
    nbray.get(holder.ready.remote())
    wait_until(lambda: "CPU" not in nbray.available_resources(), "the CPUs to be taken")
    assert nbray.available_resources()["custom"] == 0.5
    assert nbray.cluster_resources()["CPU"] == 2
    ray_keys = {
        "NodeID", "Alive", "alive", "NodeName", "NodeManagerAddress", "NodeManagerHostname",
        "NodeManagerPort", "ObjectManagerPort", "ObjectStoreSocketName", "RayletSocketName",
        "MetricsExportPort", "MetricsAgentPort", "DashboardAgentListenPort",
        "RuntimeEnvAgentPort", "DeathReason", "DeathReasonMessage", "Resources", "Labels",
    }  # fmt: skip
    assert ray_keys <= nbray.nodes()[0].keys()


def test_the_object_store_is_among_the_resources(cluster: Path) -> None:
    total = nbray.cluster_resources()["object_store_memory"]
    assert total == nbray.nodes()[0]["Stats"]["store_total"]
    kept = nbray.put(bytes(int(total / 4)))
    wait_until(
        lambda: nbray.available_resources()["object_store_memory"] < total * 0.8,
        "the store's use to be reported",
    )
    del kept


def test_the_placement_group_of_a_task_is_known_to_it(cluster: Path) -> None:
    group = placement_group([{"CPU": 1}])

    @nbray.remote
    def mine() -> Any:
        return nbray.get_runtime_context().current_placement_group_id

    inside = mine.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group))
    assert nbray.get(inside.remote(), timeout=30) == group.id
    assert nbray.get(mine.remote(), timeout=30) is None
    assert nbray.get_runtime_context().current_placement_group_id is None


def test_a_ref_of_an_id_alone_compares_and_prints() -> None:
    ref = ObjectRef.from_random()
    assert ObjectRef(ref.binary()) == ObjectRef.from_hex(ref.hex()) == ref
    assert len({ref, ObjectRef.from_binary(ref.binary()), ObjectRef.from_random()}) == 2
    assert ObjectRef.nil().is_nil()
    assert not ref.is_nil()
    assert repr(ref) == f"ObjectRef({ref.hex()})"
    with pytest.raises(ValueError, match="length 28, got 3"):
        ObjectRef(b"abc")


@nbray.remote
def length(value: Any) -> int:
    return len(value)


@pytest.mark.parametrize(
    "use",
    [
        lambda ref: nbray.get(ref, timeout=5),
        lambda ref: nbray.wait([ref], timeout=5),
        lambda ref: ref.future(),
        lambda ref: length.remote(ref),
        lambda ref: nbray.put([ref]),
        pickle.dumps,
    ],
    ids=["get", "wait", "future", "argument", "put", "pickle"],
)
def test_no_use_of_a_ref_without_an_owner_hangs(
    cluster: Path, use: Callable[[ObjectRef], Any]
) -> None:
    with pytest.raises(ValueError, match="trying to access an object whose owner is unknown"):
        use(ObjectRef.from_random())


def test_a_call_in_a_thread_of_an_actor_learns_that_it_was_cancelled(cluster: Path) -> None:
    @nbray.remote(max_concurrency=2)
    class Threaded:
        def __init__(self) -> None:
            self.started = threading.Event()

        def until_cancelled(self) -> str:
            context = nbray.get_runtime_context()
            self.started.set()
            deadline = time.monotonic() + 30
            while not context.is_canceled() and time.monotonic() < deadline:
                self.started.wait(0.01)
            return "cancelled" if context.is_canceled() else "not told"

        def has_started(self) -> bool:
            return self.started.wait(30) and not nbray.get_runtime_context().is_canceled()

    actor = Threaded.remote()
    call = actor.until_cancelled.remote()
    assert nbray.get(actor.has_started.remote(), timeout=30)
    nbray.cancel(call)
    try:
        assert nbray.get(call, timeout=30) == "cancelled"
    except nbray.exceptions.TaskCancelledError:
        assert nbray.get(actor.has_started.remote(), timeout=30)
    with pytest.raises(RuntimeError, match="only available in tasks"):
        nbray.get_runtime_context().is_canceled()


class Connection:
    """What cannot be pickled, since it holds a lock."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.lock = threading.Lock()


def test_a_registered_class_travels_as_its_serializer_says(cluster: Path) -> None:
    def open_again(url: str) -> Any:
        return Connection(url + "?")

    with pytest.raises(TypeError):
        nbray.put(Connection("db"))
    register_serializer(Connection, serializer=lambda one: one.url, deserializer=open_again)
    try:

        @nbray.remote
        def url_of(connection: Connection) -> str:
            return connection.url

        assert nbray.get(url_of.remote(Connection("db")), timeout=30) == "db?"
        assert nbray.get(nbray.put([Connection("db")]), timeout=30)[0].url == "db?"
    finally:
        deregister_serializer(Connection)
    with pytest.raises(TypeError):
        nbray.put(Connection("db"))


def test_log_once_says_yes_once() -> None:
    assert [log_once(key) for key in ("a fact", "a fact", "another fact")] == [True, False, True]


def test_output_of_an_actor_names_its_class_or_what_it_calls_itself(
    cluster: Path, terminal: Terminal
) -> None:
    @nbray.remote
    class Plain:
        def say(self) -> None:
            print("plain speaks")

    @nbray.remote
    class Account:
        def __repr__(self) -> str:
            return "Account(7)"

        def say(self) -> None:
            print("account speaks")

    plain, account = Plain.remote(), Account.remote()
    nbray.get([plain.say.remote(), account.say.remote()], timeout=30)

    def both() -> bool:
        return "plain speaks" in terminal.out and "account speaks" in terminal.out

    wait_until(both, "the lines of both actors")
    assert "(Plain pid=" in terminal.out
    assert "(Account(7) pid=" in terminal.out
