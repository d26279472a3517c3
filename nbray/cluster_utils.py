"""Clusters of several nodes on one machine, for tests; Ray's `Cluster`."""

from __future__ import annotations

import contextlib
import json
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from nbray.common.ignoring import ignore
from nbray.common.ray_settings import system_config
from nbray.driver.cluster import nodes
from nbray.driver.driver import init, shutdown
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.described import NodeOptions
from nbray.launcher.found import found_nodes
from nbray.launcher.local import ClusterOptions, RunningNode, join, start_head

_STORE_BYTES = 100 << 20
_RAYS = {
    "cluster_id", "dashboard_agent_listen_port", "dashboard_host", "dashboard_port",
    "enable_object_reconstruction", "external_addresses", "gcs_server_port", "huge_pages",
    "include_log_monitor", "max_worker_port", "metrics_agent_port",
    "metrics_export_port", "min_worker_port", "no_monitor", "node_ip_address", "node_manager_port",
    "node_name", "num_redis_shards", "object_manager_port", "object_ref_seed",
    "plasma_directory", "plasma_store_socket_name",
    "ray_client_server_port", "raylet_socket_name", "redis_max_memory", "redis_password",
    "redis_port", "redis_username", "redirect_output", "runtime_env_agent_port",
    "setup_worker_path",
    "storage", "temp_dir", "tracing_startup_hook", "worker_path", "worker_port_list",
}  # fmt: skip


class Cluster:
    """Nodes that are added and removed at will.

    Args:
        initialize_head: start a head node at once.
        connect: and make this process its driver.
        head_node_args: arguments of `add_node` for the head.
        shutdown_at_exit: taken for Ray's sake: the nodes end with this process, however it ends.

    Examples:
        A cluster of two nodes; a program with `nbray.cluster_utils.Cluster` starts none otherwise:

        ```python
        import nbray
        from nbray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
        worker = cluster.add_node(num_cpus=2, resources={"special": 1})
        print(nbray.cluster_resources()["CPU"])  # 3.0
        cluster.remove_node(worker)
        cluster.shutdown()
        ```
    """

    def __init__(
        self,
        initialize_head: bool = False,
        connect: bool = False,
        head_node_args: dict[str, Any] | None = None,
        shutdown_at_exit: bool = True,
    ) -> None:
        del shutdown_at_exit
        self.head_node: RunningNode | None = None
        self.worker_nodes: set[RunningNode] = set()
        self.connected = False
        self._settings: dict[str, str] = {}
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
        """Make this process a driver of the cluster.

        Args:
            namespace: where names of its actors live; a new one by default.
        """
        init(address=self.address, namespace=namespace, ignore_reinit_error=True)
        self.connected = True

    def add_node(
        self,
        wait: bool = True,
        *,
        num_cpus: float = 1,
        num_gpus: float = 0,
        resources: Mapping[str, float] | None = None,
        object_store_memory: float | None = _STORE_BYTES,
        memory: float | None = None,
        labels: Mapping[str, str] | None = None,
        env_vars: Mapping[str, str] | None = None,
        object_spilling_directory: str | None = None,
        include_dashboard: bool | None = None,
        _system_config: Mapping[str, Any] | None = None,
        **ignored: Any,
    ) -> RunningNode:
        """Start a node; the first one is the head.

        Args:
            wait: until the cluster knows it; a node that was started is always known here.
            num_cpus: CPUs of the node.
            num_gpus: GPUs of the node.
            resources: custom resources by name.
            object_store_memory: bytes of its store.
            memory: bytes of the resource ``memory``.
            labels: labels by name.
            env_vars: variables of its processes.
            object_spilling_directory: where values go that its store has no room for.
            include_dashboard: of a head; it has one if it can be, by default.
            _system_config: Ray's settings, as `nbray.init` takes them; of all nodes from now on.
            ignored: arguments of Ray's nodes that have no meaning here.

        Returns:
            The node, for `remove_node`.

        Raises:
            ProcessStartError: it did not start. TypeError: an argument is neither Ray's nor ours.
        """
        del wait
        unknown = [name for name in ignored if name not in _RAYS]
        if unknown:
            raise TypeError(f"Cluster.add_node() got an unknown argument: {', '.join(unknown)}.")
        ignore("Cluster.add_node()", [name for name, value in ignored.items() if value])
        amounts = {"CPU": num_cpus, **({"GPU": num_gpus} if num_gpus else {}), **(resources or {})}
        if memory is not None:
            amounts["memory"] = memory
        store = _STORE_BYTES if object_store_memory is None else object_store_memory
        self._settings.update(system_config(dict(_system_config or {})))
        wanted = NodeOptions(
            amounts, labels=labels, variables={**self._settings, **(env_vars or {})},
            object_store_memory=store, object_spilling_directory=object_spilling_directory,
        )  # fmt: skip
        if self.head_node is None:
            self.head_node = start_head(wanted, dashboard=DashboardOptions(include_dashboard))
            return self.head_node
        node = join(self.address, wanted, token=self.head_node.session.token, fate_shared=True)
        self.worker_nodes.add(node)
        return node

    def remove_node(self, node: RunningNode, allow_graceful: bool = True) -> None:
        """Stop a node; with ``allow_graceful`` False as when its machine loses its power.

        Args:
            node: what `add_node` returned.
            allow_graceful: False kills its processes.
        """
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

        Args:
            timeout: seconds.

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

    def remaining_processes_alive(self) -> bool:
        """Whether all processes of all nodes live."""
        return all(node.remaining_processes_alive() for node in self.list_all_nodes())

    def shutdown(self) -> None:
        """Stop all nodes, the head last."""
        if self.connected:
            shutdown()
            self.connected = False
        for node in list(self.worker_nodes):
            self.remove_node(node)
        if self.head_node is not None:
            self.remove_node(self.head_node)


class AutoscalingCluster:
    """A cluster on this machine that grows and shrinks by itself; Ray's class of that name.

    Args:
        head_resources: of the head node, by name: ``CPU``, ``GPU``, ``memory``,
            ``object_store_memory``, others.
        worker_node_types: as ``available_node_types`` of a cluster's file.
        autoscaler_v2: taken for Ray's sake; there is one autoscaler.
        config_kwargs: other keys of the file, as ``idle_timeout_minutes`` or ``max_workers``.

    Examples:
        A program with an autoscaling cluster starts no other one:

        ```python
        import nbray
        from nbray.cluster_utils import AutoscalingCluster

        small = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
        cluster = AutoscalingCluster({"CPU": 0}, {"small": small}, idle_timeout_minutes=0.1)
        cluster.start()
        nbray.init("auto")
        print(nbray.get(nbray.remote(lambda: 42).remote()))  # 42, once a node has come
        nbray.shutdown()
        cluster.shutdown()
        ```
    """

    def __init__(
        self,
        head_resources: Mapping[str, float],
        worker_node_types: Mapping[str, Any],
        autoscaler_v2: bool = False,
        **config_kwargs: Any,
    ) -> None:
        del autoscaler_v2
        self._head_resources = dict(head_resources)
        self._config = {
            "cluster_name": "autoscaling", "provider": {"type": "fake"},
            "max_workers": sum(one.get("max_workers", 0) for one in worker_node_types.values()),
            **config_kwargs, "available_node_types": dict(worker_node_types),
        }  # fmt: skip
        self._head: RunningNode | None = None
        self._folder: tempfile.TemporaryDirectory[str]

    @property
    def config_file(self) -> Path:
        """The cluster's file, once it was started; it is read again when it changes."""
        return Path(self._folder.name) / "autoscaling.yaml"

    @property
    def address(self) -> str:
        """HOST:PORT of the GCS.

        Raises:
            RuntimeError: it was not started.
        """
        if self._head is None:
            raise RuntimeError("The cluster does not run: call start() first.")
        return self._head.gcs_address

    def start(
        self,
        _system_config: Mapping[str, Any] | None = None,
        override_env: Mapping[str, str] | None = None,
    ) -> None:
        """Start the head node, and with it the autoscaler.

        Args:
            _system_config: Ray's settings, as `nbray.init` takes them.
            override_env: variables of its processes.

        Raises:
            ProcessStartError: it did not start.
        """
        amounts = dict(self._head_resources)
        store = amounts.pop("object_store_memory", _STORE_BYTES)
        self._folder = tempfile.TemporaryDirectory(prefix="nbray-")
        self.config_file.write_text(json.dumps(self._config))
        settings = {**system_config(dict(_system_config or {})), **(override_env or {})}
        self._head = start_head(
            NodeOptions(
                {"CPU": 1, **amounts}, variables=settings, object_store_memory=store
            ),
            ClusterOptions(
                token=secrets.token_hex(32).encode(), autoscaling_config=self.config_file
            ),
            dashboard=DashboardOptions(False), for_programs=True,
        )  # fmt: skip

    def shutdown(self) -> None:
        """End the autoscaler, the head and all nodes."""
        if self._head is None:
            return
        address = self._head.gcs_address
        self._head.stop(keep_session=True)
        for node in found_nodes():
            if node.gcs_address == address:
                node.stop(force=True)
        self._head.session.remove()
        self._folder.cleanup()
        self._head = None
