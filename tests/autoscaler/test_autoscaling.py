"""Clusters that grow and shrink: real processes, nodes of this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from support.nodes import join_here

import nbray
from nbray.autoscaler.sdk import request_resources
from nbray.cli import main
from nbray.cluster_utils import AutoscalingCluster
from nbray.driver.driver import current_core
from nbray.state.scaling import SCALING, ScalingState
from nbray.testing import own_sessions, wait_until
from nbray.util.state import list_demand, list_nodes
from nbray.wire.scaling_messages import Drained, DrainNode

PATIENCE_S = 60.0


def small(**more: Any) -> dict[str, Any]:
    return {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 4, **more}


@contextmanager
def scaling(
    types: dict[str, Any], idle_s: float = 1.0, **more: Any
) -> Iterator[AutoscalingCluster]:
    with own_sessions():
        cluster = AutoscalingCluster(
            {"CPU": 0}, types, idle_timeout_minutes=idle_s / 60, **more
        )  # fmt: skip
        cluster.start(override_env={"NBRAY_AUTOSCALER_UPDATE_INTERVAL_S": "0.25"})
        try:
            nbray.init(cluster.address)
            yield cluster
        finally:
            nbray.shutdown()
            cluster.shutdown()


def cpus() -> float:
    return nbray.cluster_resources().get("CPU", 0)


def state() -> ScalingState | None:
    core = current_core()
    reply = core.peers.gcs_call(SCALING.method, SCALING.body)
    return SCALING.read(reply)


def nodes_leave() -> None:
    wait_until(lambda: cpus() == 0, "the end of all nodes but the head", PATIENCE_S)


def process(cluster: AutoscalingCluster, module: str) -> psutil.Process:
    """A process of the head."""
    found: list[psutil.Process] = []

    def there() -> bool:
        for one in psutil.process_iter(["cmdline"]):
            command = one.info["cmdline"] or ()
            if module in command and cluster_folder(cluster) in command:
                found.append(one)
        return bool(found)

    wait_until(there, f"a process of {module}")
    return found[0]


def cluster_folder(cluster: AutoscalingCluster) -> str:
    assert cluster._head is not None
    return str(cluster._head.session.path)


def drain(node_id: str, only_idle: bool = False, deadline_s: float = 0.0) -> Drained:
    request = DrainNode(bytes.fromhex(node_id), "a test", deadline_s, only_idle)
    reply = current_core().peers.gcs_call("DrainNode", msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(reply, type=Drained)


def test_from_none_to_some_to_none_and_what_they_made_is_there() -> None:
    with scaling({"small": small(max_workers=1)}):

        @nbray.remote(max_retries=0)
        def make(n: int) -> np.ndarray[Any, Any]:
            return np.full(1 << 20, n, np.uint8)

        refs = [make.remote(n) for n in range(3)]
        nbray.wait(refs, num_returns=3, timeout=PATIENCE_S)
        nodes_leave()
        dead = [row for row in list_nodes() if row.state == "DEAD"]
        assert dead[0].state_message is not None and "drained: idle for" in dead[0].state_message
        assert [int(value[-1]) for value in nbray.get(refs, timeout=60)] == [0, 1, 2]


def test_a_node_that_drains_takes_nothing_hands_its_values_on_and_leaves(cluster: Path) -> None:
    node = join_here({"far": 1})

    @nbray.remote(num_cpus=0, resources={"far": 0.5}, max_retries=0)
    def make() -> np.ndarray[Any, Any]:
        return np.arange(1 << 18)

    @nbray.remote(num_cpus=0, resources={"far": 0.1}, max_restarts=0)
    class Held:
        def done(self) -> int:
            return 1

    ref = make.remote()
    nbray.wait([ref], timeout=PATIENCE_S)
    held = Held.remote()  # a report that tells of it tells of the lease, too, if there is one
    assert nbray.get(held.done.remote(), timeout=PATIENCE_S) == 1
    refused = drain(node.node_id, only_idle=True)
    assert not refused.accepted and "1 actor" in refused.why
    assert drain(node.node_id).accepted
    (row,) = [row for row in list_nodes() if row.node_id == node.node_id]
    assert (row.state, row.state_message) == ("ALIVE", "draining: a test")
    # A submitter that has a lease keeps it until it hears that it is wanted back.
    wait_until(lambda: _row(node.node_id).kept_by == ["1 actor"], "the end of all leases")
    later = make.remote()
    ready, _ = nbray.wait([later], timeout=1)
    assert not ready, "it takes nothing new"
    assert nbray.get(held.done.remote(), timeout=PATIENCE_S) == 1, "what is there goes on"
    nbray.kill(held)
    wait_until(lambda: len([n for n in nbray.nodes() if n["Alive"]]) == 1, "the node's leaving")
    node.stop()
    assert int(nbray.get(ref, timeout=60)[-1]) == (1 << 18) - 1
    nbray.cancel(later)


@pytest.mark.slow
def test_groups_selectors_actors_and_requests_grow_a_cluster() -> None:
    types = {
        "small": small(),
        "gpu": {"resources": {"CPU": 1, "GPU": 1}, "labels": {"zone": "b"}, "max_workers": 1},
    }
    with scaling(types, idle_s=2.0):
        group = nbray.util.placement_group([{"CPU": 1}] * 2, strategy="STRICT_SPREAD")
        assert group.wait(PATIENCE_S)
        nbray.util.remove_placement_group(group)

        @nbray.remote(num_cpus=1)
        class Zoned:
            def zone(self) -> str:
                return nbray.get_runtime_context().get_node_labels().get("zone", "")

        actor = Zoned.options(label_selector={"zone": "b"}).remote()
        assert nbray.get(actor.zone.remote(), timeout=PATIENCE_S) == "b"
        nbray.kill(actor)
        request_resources(num_cpus=2)
        wait_until(lambda: cpus() == 2, "two nodes that were asked for", PATIENCE_S)
        time.sleep(3)  # longer than they may be idle
        assert cpus() == 2, "what was asked for stays"
        found = state()
        assert found is not None and found.requested == [{"CPU": 1.0}] * 2
        request_resources()
        nodes_leave()


@pytest.mark.slow
def test_what_keeps_a_node_is_in_its_row_and_in_the_status() -> None:
    with scaling({"small": small(max_workers=2)}) as cluster:

        @nbray.remote(num_cpus=1)
        class Keeps:
            def here(self) -> str:
                return nbray.get_runtime_context().get_node_id()

        keeps = Keeps.remote()
        where = nbray.get(keeps.here.remote(), timeout=PATIENCE_S)
        (row,) = [row for row in list_nodes() if row.node_id == where]
        wait_until(lambda: _row(where).kept_by == ["1 actor"], "the node's word")
        assert row.state == "ALIVE"
        impossible = Keeps.options(num_cpus=64).remote()
        wait_until(lambda: bool((state() or _none()).unmet), "the word on what cannot be served")
        shown = CliRunner().invoke(main, ["status", "--address", cluster.address]).output
        for text in ("Autoscaler status", "1 small", "1 actor", "no node type of the file"):
            assert text in shown, shown
        nbray.kill(impossible)
        drained = CliRunner().invoke(
            main, ["drain-node", "--node-id", where[:12], "--address", cluster.address,
                   "--reason", "DRAIN_NODE_REASON_IDLE_TERMINATION", "--reason-message", "why"],
        )  # fmt: skip
        assert drained.exit_code == 1 and "1 actor" in drained.output
        nbray.kill(keeps)
        nodes_leave()


def _row(node_id: str) -> Any:
    (row,) = [row for row in list_nodes() if row.node_id == node_id]
    return row


def _none() -> ScalingState:
    return ScalingState(0, "", {}, 0, [], [], [], [], [], [])


@pytest.mark.slow
def test_a_file_that_changes_is_read_again_and_one_that_is_wrong_changes_nothing() -> None:
    with scaling({"small": small(max_workers=2)}) as cluster:
        wait_until(lambda: state() is not None, "the autoscaler's first word")
        given = json.loads(cluster.config_file.read_text())
        cluster.config_file.write_text("cluster_name: [")
        wait_until(lambda: bool((state() or _none()).troubles), "the word on the file")
        given["available_node_types"]["small"]["min_workers"] = 1
        cluster.config_file.write_text(json.dumps(given))
        wait_until(lambda: cpus() == 1, "the node that there is to be always", PATIENCE_S)
        found = state()
        assert found is not None and not found.troubles and found.bounds["small"] == (1, 2)


@pytest.mark.slow
def test_a_node_that_cannot_start_is_told_of_with_its_last_lines() -> None:
    broken = small(resources={"CPU": 1}, node_config={"object_store_memory": 1})
    with scaling({"broken": broken}):
        ref = nbray.remote(lambda: 1).remote()
        wait_until(lambda: bool((state() or _none()).failures), "a failure", PATIENCE_S)

        def told() -> bool:
            found = state()
            return found is not None and "object store needs at least" in found.failures[0].lines

        wait_until(told, "what the command said", PATIENCE_S)
        rows = list_demand()
        assert rows and rows[0].count == 1
        nbray.cancel(ref)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("killed", ["nbray.autoscaler", "nbray.gcs"])
def test_a_kill_at_any_moment_changes_nothing(killed: str) -> None:
    """From none to two to none again and again; each time it is killed at another moment."""
    with scaling({"small": small(max_workers=2)}, idle_s=0.5) as cluster:

        @nbray.remote(max_retries=0)
        def make(n: int) -> np.ndarray[Any, Any]:
            time.sleep(0.5)
            return np.full(1 << 20, n, np.uint8)

        def drained(more_than: int = -1) -> int:
            count = sum(bool(row.state_message) for row in list_nodes())
            return count if count > more_than else 0

        for pause in (0.0, 0.7, 1.5, 2.5, 4.0):  # asked for, started, joined, at work, leaving
            before = drained()
            refs = [make.remote(n) for n in range(2)]
            time.sleep(pause)
            process(cluster, killed).kill()
            assert [int(v[0]) for v in nbray.get(refs, timeout=PATIENCE_S)] == [0, 1]
            wait_until(partial(drained, before), "a drain", PATIENCE_S)
            process(cluster, killed).kill()
            nodes_leave()
            assert [int(v[0]) for v in nbray.get(refs, timeout=PATIENCE_S)] == [0, 1]
        assert cluster._head is not None
        left = Path(cluster_folder(cluster)) / "fake_nodes"
        wait_until(lambda: not list(left.iterdir()), "the end of all instances", PATIENCE_S)
