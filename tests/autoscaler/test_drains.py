"""A node leaves with much on it: huge values and many, and somebody stands still meanwhile."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from support import stopping
from support.commands import command, read_until, start_command
from support.nodes import join_here

import nbray
from nbray.cluster_utils import AutoscalingCluster
from nbray.driver.driver import current_core, current_driver
from nbray.testing import own_sessions, wait_until
from nbray.wire.scaling_messages import Drained, DrainNode

pytestmark = pytest.mark.slow
MB = 1 << 20


@pytest.fixture
def head() -> Iterator[psutil.Process]:
    """The raylet of a head whose store is smaller than what comes."""
    with own_sessions():
        nbray.init("local", num_cpus=1, object_store_memory=64 * MB)
        driver = current_driver()
        assert driver is not None and driver.node is not None
        yield psutil.Process(driver.node.children[-1].pid)
        nbray.shutdown()


def drain(node_id: str) -> Drained:
    request = DrainNode(bytes.fromhex(node_id), "a test", 0.0, False)
    reply = current_core().peers.gcs_call("DrainNode", msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(reply, type=Drained)


def has_left() -> bool:
    return len([row for row in nbray.nodes() if row["Alive"]]) == 1


@nbray.remote(num_cpus=0, resources={"far": 0.1}, max_retries=0)
def make(first: int, count: int, size: int) -> Any:
    values = [np.full(size, (first + n) % 251, np.uint8) for n in range(count)]
    return values if count > 1 else values[0]


def stand_still(process: psutil.Process, seconds: float) -> None:
    """Stop it for a while, unless it has ended."""
    try:
        process.suspend()
        time.sleep(seconds)
        process.resume()
    except psutil.NoSuchProcess:
        return


def test_a_node_leaves_with_more_values_than_the_others_store_holds(head: psutil.Process) -> None:
    node = join_here({"far": 4}, 64 * MB)
    refs = [
        ref
        for first in range(0, 2000, 250)
        for ref in make.options(num_returns=250).remote(first, 250, 110_000)
    ]
    nbray.wait(refs, num_returns=len(refs), timeout=100, fetch_local=False)
    assert drain(node.node_id).accepted
    raylet = psutil.Process(node.children[-1].pid)
    for stopped, seconds in ((raylet, 1.0), (head, 1.0), (raylet, 3.0)):
        time.sleep(0.2)
        stand_still(stopped, seconds)
    wait_until(has_left, "the node's leaving", 100)
    node.stop()
    for number, ref in enumerate(refs):
        value = nbray.get(ref, timeout=60)
        assert value[0] == value[-1] == number % 251, number


def test_a_node_leaves_with_values_that_are_larger_than_the_others_store(
    head: psutil.Process,
) -> None:
    node = join_here({"far": 4}, 300 * MB)
    refs = [make.remote(number, 1, 140 * MB) for number in range(2)]
    nbray.wait(refs, num_returns=2, timeout=100, fetch_local=False)
    assert drain(node.node_id).accepted
    stand_still(psutil.Process(node.children[-1].pid), 12.0)
    wait_until(has_left, "the node's leaving", 100)
    node.stop()
    for number, ref in enumerate(refs):
        value = nbray.get(ref, timeout=60)
        assert value.nbytes == 140 * MB and value[0] == value[-1] == number


def test_an_autoscaler_that_stands_still_for_a_while_goes_on_where_it_was() -> None:
    small = {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 2}
    with own_sessions():
        cluster = AutoscalingCluster({"CPU": 0}, {"small": small}, idle_timeout_minutes=0.02)
        cluster.start(override_env={"NBRAY_AUTOSCALER_UPDATE_INTERVAL_S": "0.25"})
        try:
            nbray.init(cluster.address)
            double = nbray.remote(max_retries=0)(lambda number: 2 * number)
            scaler = _autoscaler(str(cluster.config_file.parent))
            for seconds in (1.0, 12.0):
                refs = [double.remote(number) for number in range(4)]
                stand_still(scaler, seconds)
                assert nbray.get(refs, timeout=60) == [0, 2, 4, 6]
                stand_still(scaler, 1.0)  # while they are idle
                wait_until(lambda: not nbray.cluster_resources().get("CPU"), "their leaving", 60)
            assert scaler.is_running(), "it was never taken for dead"
        finally:
            nbray.shutdown()
            cluster.shutdown()


def _autoscaler(folder: str) -> psutil.Process:
    found: list[psutil.Process] = []

    def there() -> bool:
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or ()
            if "nbray.autoscaler" in command and any(folder in word for word in command):
                found.append(process)
        return bool(found)

    wait_until(there, "the autoscaler")
    return found[0]


def test_a_raylet_that_stands_still_when_it_is_to_drain_drains_when_it_goes_on(
    head: psutil.Process,
) -> None:
    node = join_here({"far": 4}, 64 * MB)
    ref = make.remote(7, 1, 110_000)
    nbray.wait([ref], timeout=100, fetch_local=False)
    raylet = node.children[-1].pid
    stopping.stand_still(raylet)
    try:
        asking = start_command(
            "drain-node", f"--node-id={node.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=a test", "--deadline-remaining-seconds=60",
        )  # fmt: skip
        time.sleep(8)  # longer than the GCS waits for it
    finally:
        os.kill(raylet, signal.SIGCONT)
    said, failed = asking.communicate(timeout=60)
    assert asking.returncode == 0 and "The node drains" in said, said + failed
    wait_until(has_left, "the node's leaving", 100)
    node.stop()
    assert nbray.get(ref, timeout=60)[0] == 7


def test_a_notice_while_the_raylet_stands_still_is_heeded_when_it_goes_on(home: Path) -> None:
    small = ("--include-dashboard=0", "--object-store-memory=64MB")
    started = command("start", "--head", "--port=0", "--num-cpus=1", *small)
    address = re.search(r"cluster (\S+)\.", started.stdout)
    assert address, started.stderr
    try:
        nbray.init(address[1])
        staying = start_command(
            "start", f"--address={address[1]}", "--block", '--resources={"far": 4}', *small[1:]
        )
        read_until(staying, " runs, cluster ")
        ref = make.remote(7, 1, 110_000)
        nbray.wait([ref], timeout=100, fetch_local=False)
        (raylet,) = [
            child for child in psutil.Process(staying.pid).children()
            if "nbray.raylet" in child.cmdline()
        ]  # fmt: skip
        stopping.stand_still(raylet.pid)
        try:
            staying.send_signal(signal.SIGUSR1)
            read_until(staying, "the node could not be drained so far")
        finally:
            raylet.resume()
        said, failed = staying.communicate(timeout=100)
        assert staying.returncode == 0, said + failed
        assert "No new work starts on this node" in said, said
        assert "was drained, and has left" in said, said
        assert nbray.get(ref, timeout=60)[0] == 7
    finally:
        nbray.shutdown()
        command("stop")
