"""A head node on this machine: a session, a GCS and a raylet."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

from nbray.common.config import Config
from nbray.common.process import Child, spawn
from nbray.common.resources import to_units
from nbray.common.session import Session


@dataclass
class RunningNode:
    """The processes that were started, and where they are reached."""

    session: Session
    gcs_address: str
    raylet_socket: str
    node_id: str
    children: list[Child]

    def stop(self) -> None:
        """End the processes, the last started first, and delete the session folder."""
        for child in reversed(self.children):
            child.terminate()
        self.session.remove()


def start_head(
    *,
    resources: Mapping[str, float],
    object_store_memory: int | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> RunningNode:
    """Start a head node that leaves when this process ends, however it ends.

    Args:
        resources: amounts by name; CPU, memory (bytes) get defaults from the machine.
        object_store_memory: bytes of the arena; 30% of the free memory by default.
        host: the address to listen on.
        port: the port of the GCS; 0 takes a free one.

    Raises:
        ProcessStartError: a process did not start; nothing is left running.
    """
    config = Config.from_env()
    free = psutil.virtual_memory().available
    store = int(free * 0.3) if object_store_memory is None else object_store_memory
    store = store // 4096 * 4096
    total: dict[str, float] = {"CPU": os.cpu_count() or 1, "memory": int(free * 0.7)}
    total.update(resources)
    session = Session.create()
    children: list[Child] = []
    try:
        gcs = spawn(
            "nbray.gcs",
            ["--session-dir", str(session.path), "--host", host, "--port", str(port)],
            session.log_path("gcs.log"), fate_shared=True,
        )  # fmt: skip
        children.append(gcs)
        address = f"{host}:{gcs.wait_ready(config.start_timeout_s)['port']}"
        raylet = spawn(
            "nbray.raylet",
            [
                "--session-dir", str(session.path), "--node-ip", host,
                "--gcs-address", address, "--resources", json.dumps(to_units(total)),
                "--object-store-memory", str(store), "--head",
            ],
            session.log_path("raylet.log"), fate_shared=True,
        )  # fmt: skip
        children.append(raylet)
        report = raylet.wait_ready(config.start_timeout_s)
    except BaseException:
        for child in reversed(children):
            child.terminate()
        session.remove()
        raise
    session.write_info(
        {"gcs_address": address, "raylet_socket": report["socket"], "node_id": report["node_id"],
         "pids": [child.pid for child in children]}
    )  # fmt: skip
    return RunningNode(session, address, report["socket"], report["node_id"], children)
