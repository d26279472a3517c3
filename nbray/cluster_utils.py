"""Clusters of several nodes on one machine, for tests; Ray's `Cluster`."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil

from nbray.cluster import nodes
from nbray.driver import init, shutdown
from nbray.launcher.local import RunningNode, join, start_head

_STORE_BYTES = 100 << 20


class Cluster:
    """Nodes that are added and removed at will.

    Args:
        initialize_head: start a head node at once.
        connect: and make this process its driver.
        head_node_args: arguments of `add_node` for the head.
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
    ) -> None:
        self.head_node: RunningNode | None = None
        self.worker_nodes: set[RunningNode] = set()
        self.connected = False
        if initialize_head:
            self.add_node(**(head_node_args or {}))
            if connect:
                self.connect()

    @property
    def address(self) -> str:
        """HOST:PORT of the GCS.

        Raises:
            RuntimeError: there is no head node.
        """
        return self._head().gcs_address

    @property
    def gcs_address(self) -> str:
        """HOST:PORT of the GCS."""
        return self.address

    def _head(self) -> RunningNode:
        if self.head_node is None:
            raise RuntimeError("The cluster has no head node: call add_node() first.")
        return self.head_node

    def connect(self, namespace: str | None = None) -> None:
        """Make this process a driver of the cluster."""
        init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: dict[str, float] | None = None,
        object_store_memory: int = _STORE_BYTES,
        labels: dict[str, str] | None = None,
    ) -> RunningNode:
        """Start a node; the first one is the head.

        Args:
            wait: until the cluster knows it; a node that was started is always known here.
            num_cpus, num_gpus, resources, labels: what it has.
            object_store_memory: bytes of its store.

        Raises:
            ProcessStartError: it did not start.
        """
        del wait
        amounts = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {}), **(resources or {})}
        if self.head_node is None:
            self.head_node = start_head(
                resources=amounts, object_store_memory=object_store_memory, labels=labels
            )
            return self.head_node
        node = join(
            self.address, resources=amounts, object_store_memory=object_store_memory,
            labels=labels, token=self.head_node.session.token, fate_shared=True,
        )  # fmt: skip
        self.worker_nodes.add(node)
        return node

    def remove_node(self, node: RunningNode, allow_graceful: bool = True) -> None:
        """Stop a node; with ``allow_graceful`` False as when its machine loses its power."""
        if not allow_graceful:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has died already
                raylet = psutil.Process(node.children[-1].pid)
                for process in [raylet, *raylet.children(recursive=True)]:
                    process.kill()
        node.stop()
        self.worker_nodes.discard(node)
        if node is self.head_node:
            self.head_node = None

    def wait_for_nodes(self, timeout: float = 30) -> None:
        """Wait until the cluster's table shows the nodes that run, and no other.

        Raises:
            TimeoutError: it did not in ``timeout`` seconds.
        """
        if not self.connected:
            return  # each node was known to the GCS when it reported that it is ready
        expected = {node.node_id for node in self.list_all_nodes()}
        deadline = time.monotonic() + timeout
        while {row["NodeID"] for row in nodes() if row["Alive"]} != expected:
            if time.monotonic() > deadline:
                raise TimeoutError("Timed out while waiting for nodes to join.")
            time.sleep(0.05)

    def list_all_nodes(self) -> list[RunningNode]:
        """The nodes that run, the head first."""
        head = [self.head_node] if self.head_node is not None else []
        return [*head, *self.worker_nodes]

    def shutdown(self) -> None:
        """Stop all nodes, the head last."""
        if self.connected:
            shutdown()
            self.connected = False
        for node in list(self.worker_nodes):
            self.remove_node(node)
        if self.head_node is not None:
            self.remove_node(self.head_node)
