"""`Cluster` for tests has Ray's arguments, and its nodes Ray's names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.testing import wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MANY = {f"resource{number:05}": number + 1 for number in range(10_000)}


@pytest.fixture
def nodes(session_root: Path) -> Iterator[Cluster]:
    del session_root
    arguments = {
        "num_cpus": 1, "resources": MANY, "memory": 1e9, "object_store_memory": 9e7,
        "dashboard_host": "127.0.0.1", "_system_config": {"health_check_period_ms": 1000},
    }  # fmt: skip
    cluster = Cluster(True, True, arguments, shutdown_at_exit=True)
    yield cluster
    cluster.shutdown()


def test_a_node_may_have_ten_thousand_resources(nodes: Cluster) -> None:
    total = nbray.cluster_resources()
    assert {name: total[name] for name in MANY} == MANY and total["memory"] == 1e9
    last = nbray.remote(num_cpus=0, resources={"resource09999": 10_000})(os.getpid)
    assert nbray.get(last.remote(), timeout=30)


def test_nodes_have_rays_names_and_arguments(nodes: Cluster) -> None:
    head, node = nodes.head_node, nodes.add_node(num_cpus=1, env_vars={"NODE_OF": "tests"})
    assert head is not None and head.is_head() and not node.is_head()
    assert node.unique_id == node.node_id in {row["NodeID"] for row in nbray.nodes()}
    assert node.address == nodes.address and node.node_ip_address == "127.0.0.1"
    assert os.path.isdir(node.get_logs_dir_path())
    assert node.get_session_dir_path().endswith(node.session_name)
    assert nodes.remaining_processes_alive()
    there = NodeAffinitySchedulingStrategy(node.unique_id, soft=False)
    ask = nbray.remote(scheduling_strategy=there)(lambda: os.environ.get("NODE_OF"))
    assert nbray.get(ask.remote(), timeout=30) == "tests"

    head.kill_gcs_server()
    head.start_gcs_server()
    assert len(nbray.nodes()) == 2, "a GCS that was killed comes back"
    node.kill_raylet()
    wait_until(lambda: sum(row["Alive"] for row in nbray.nodes()) == 1, "the node's death")
    assert not nodes.remaining_processes_alive()
    with pytest.raises(TypeError, match="cpu_nums"):
        nodes.add_node(cpu_nums=1)
