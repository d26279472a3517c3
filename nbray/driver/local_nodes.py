"""Nodes on this machine that a program starts beside `init`; they leave with it."""

from __future__ import annotations

from nbray.common.addresses import own_address
from nbray.driver.driver import current_driver, init
from nbray.launcher.found import running_sessions
from nbray.launcher.local import RunningNode, join


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
    node = join(
        driver.address,
        resources={} if num_cpus is None else {"CPU": num_cpus},
        token=driver.core.peers.connections.token,
        object_store_memory=object_store_memory,
        host=driver.core.address.host,
        fate_shared=True,
    )
    driver.added_nodes.append(node)
    return node.node_id


def join_from_here(address: str, token: bytes, namespace: str | None = None) -> None:
    """Join the cluster whose GCS is at ``address``, by a node without CPUs if none is here.

    The machines of the cluster must reach this one, too.

    Raises:
        OSError: there is no way to it. ProcessStartError, ValueError: it does not take us in.
    """
    if any(info["gcs_address"] == address for _, info in running_sessions()):
        init(address, namespace=namespace)
        return
    node = join(
        address, resources={"CPU": 0}, token=token, host=own_address(address), fate_shared=True
    )
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
