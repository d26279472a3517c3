"""Clusters that are joined by a gateway, as from another machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

import nbray
from nbray.client.remote import Remote
from nbray.driver.driver import current_driver
from nbray.launcher.client_port import RemoteDrivers
from nbray.launcher.dashboard import DashboardOptions
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import ClusterOptions, RunningNode, start_head

TOKEN = "the token of the tests of remote drivers"


def start_far_head(
    *, num_cpus: float = 2, resources: Mapping[str, float] | None = None,
    dashboard: DashboardOptions | None = None, **options: Any,
) -> RunningNode:  # fmt: skip
    """A head node with a gateway, of which this process is no driver."""
    return start_head(
        NodeOptions({"CPU": num_cpus, **(resources or {})}, **options),
        ClusterOptions(token=TOKEN.encode()), dashboard=dashboard or DashboardOptions(),
        remote_drivers=RemoteDrivers(0),
    )  # fmt: skip


def forked_driver(address: str, then: Callable[[], Any] = lambda: None) -> int:
    """A process of its own that joins, and stays until it is killed; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        nbray.init(address)
        then()
        time.sleep(1000)
    finally:
        os._exit(1)


def my_remote() -> Remote:
    """The way of this process to its cluster."""
    driver = current_driver()
    assert driver is not None and driver.remote is not None
    return driver.remote


def gateway_of(node: RunningNode) -> psutil.Process:
    """The gateway's process."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or ()
        if "nbray.client.gateway" in command and str(node.session.path) in command:
            return process
    raise AssertionError("no gateway runs")
