"""Nodes on this machine that a program starts beside `init`; they leave with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nbray.common.addresses import own_address
from nbray.driver.driver import current_driver, init
from nbray.launcher.client_port import RemoteDrivers
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.described import NodeOptions, described
from nbray.launcher.found import running_sessions
from nbray.launcher.local import ClusterOptions, RunningNode, join, start_head
from nbray.launcher.token import load_token


def added_nodes() -> list[str]:
    """The ids of the nodes that `add_node` started here, oldest first."""
    driver = current_driver()
    return [node.node_id for node in driver.added_nodes] if driver is not None else []


def add_node(*, num_cpus: float | None = None, object_store_memory: int | None = None) -> str:
    """Start a node of this program's cluster on this machine; returns its id.

    Args:
        num_cpus: its CPUs; the machine's by default.
        object_store_memory: bytes of its object store; 30% of the free memory by default.

    Raises:
        RuntimeError: there is no cluster.
        ProcessStartError: it did not start.
    """
    driver = current_driver()
    if driver is None:
        raise RuntimeError("There is no cluster to add a node to: call nbray.init() first.")
    if driver.remote is not None:
        raise RuntimeError(
            "This program joined the cluster from afar, and its machines cannot reach this one: "
            "add nodes on machines that they reach."
        )
    wanted = NodeOptions(
        {} if num_cpus is None else {"CPU": num_cpus}, driver.core.address.host,
        object_store_memory=object_store_memory,
    )  # fmt: skip
    token = driver.core.peers.connections.token
    node = join(driver.address, wanted, token=token, fate_shared=True)
    driver.added_nodes.append(node)
    return node.node_id


def start_here(options: Mapping[str, Any], namespace: str | None = None) -> None:
    """Start a cluster that ends with this program, and join it.

    `nbray.init` does the same for what it has arguments for.

    Args:
        options: of ``nbray start``, by their names there; what is missing is as by default.
        namespace: of this program.

    Raises:
        OSError, ProcessStartError, ValueError: it did not start, or the options cannot be.
    """
    said = {name: value for name, value in options.items() if value is not None}
    of_cluster = ("port", "storage", "session", "autoscaling_config")
    client_port = said.get("ray_client_server_port")
    node = start_head(
        described(said),
        ClusterOptions(**{name: said[name] for name in of_cluster if name in said}),
        dashboard=DashboardOptions(
            said.get("include_dashboard"), said.get("dashboard_host", "127.0.0.1"),
            said.get("dashboard_port"),
        ),
        remote_drivers=None if client_port is None else RemoteDrivers(client_port),
    )  # fmt: skip
    try:
        init(node.gcs_address, namespace=namespace)
        driver = current_driver()
        assert driver is not None
        driver.node = node
    except BaseException:
        node.stop(keep_session="session" in said)
        raise


def join_from_here(
    address: str, token: bytes | None = None, namespace: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:  # fmt: skip
    """Join the cluster whose GCS is at ``address``, by a node that ends with this program.

    The machines of the cluster must reach this one, too.

    Args:
        address: HOST:PORT.
        token: the cluster's; the user's by default.
        namespace: of this program.
        options: of the node, by their names at ``nbray start``; None: a node without CPUs, and
            none if there is one here already.

    Raises:
        OSError: there is no way to it, or no token. ProcessStartError, ValueError: it does not take
            us in.
    """
    is_here = any(info["gcs_address"] == address for _, info in running_sessions())
    if options is None and is_here:
        init(address, namespace=namespace)
        return
    said: Mapping[str, Any] = {"num_cpus": 0} if options is None else options
    wanted = described(said)
    if wanted.host is None:
        wanted = replace(wanted, host=own_address(address))
    token = load_token(create=False) if token is None else token
    node = join(address, wanted, token=token, fate_shared=True)
    try:
        init(address, namespace=namespace)
        driver = current_driver()
        assert driver is not None
        driver.added_nodes.append(node)
    except BaseException:
        node.stop()
        raise


def remove_node(node_id: str | None = None) -> str:
    """End a node that `add_node` started, the newest by default; returns its id.

    Raises:
        ValueError: there is none, or not that one.
    """
    driver = current_driver()
    nodes: list[RunningNode] = driver.added_nodes if driver is not None else []
    found = [node for node in nodes if node_id in (None, node.node_id)]
    if not found:
        raise ValueError("There is no such node that was added from here.")
    nodes.remove(found[-1])
    found[-1].stop()
    return found[-1].node_id
