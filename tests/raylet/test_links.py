"""Objects over links that are slow, lossy and cut."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from support.net_hosts import Network, Weather, net_hosts, why_no_networks

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks() or "can be made"),
]

HEAD = """
import json, sys, time
import numpy as np
import nbray
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At
nbray.init("auto", log_to_driver=False)
ids = {row["NodeManagerAddress"]: row["NodeID"] for row in nbray.nodes() if row["Alive"]}
ids = [ids[address] for address in sorted(ids)]
@nbray.remote(num_cpus=0)
def make(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)
@nbray.remote(num_cpus=0)
def check(value, seed=0):
    return bool((value == np.random.default_rng(seed).integers(0, 256, len(value), np.uint8)).all())
def on(function, number):
    return function.options(scheduling_strategy=At(ids[number], soft=False))
def tell(value):
    print("told", json.dumps(value), flush=True)
"""


def told(text: str) -> Any:
    """What a program on a host told last."""
    lines = [line for line in text.splitlines() if line.startswith("told ")]
    assert lines, text
    return json.loads(lines[-1][5:])


def next_told(process: subprocess.Popen[str]) -> Any:
    """What it tells next."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.startswith("told "):
            return json.loads(line[5:])
    raise AssertionError(text)


@pytest.fixture(scope="module")
def shared_network() -> Iterator[Network]:
    with net_hosts(3) as network:
        network.start_nodes("--object-store-memory", "200MB", cpus=2)
        yield network


@pytest.fixture
def network(shared_network: Network) -> Iterator[Network]:
    """Three nodes; afterwards the links are clear."""
    yield shared_network
    shared_network.set(Weather())


def test_a_value_crosses_a_link_with_delay_jitter_and_loss_unchanged(network: Network) -> None:
    network.set(Weather(delay_ms=10, jitter_ms=2, loss=1))
    program = HEAD + "tell(nbray.get(on(check, 2).remote(on(make, 1).remote(20 << 20))))"
    assert told(network.hosts[0].run_python(program)) is True


def test_a_value_arrives_when_a_link_that_was_cut_in_its_middle_is_mended(
    network: Network,
) -> None:
    network.set(Weather(rate=200), 1, 2)
    program = HEAD + (
        "made = on(make, 1).remote(50 << 20)\n"
        "nbray.wait([made], fetch_local=False)\n"
        "right = on(check, 2).remote(made)\n"
        "tell('asked')\n"
        "tell(nbray.get(right, timeout=60))\n"
    )
    driver = network.hosts[0].start_python(program)
    assert next_told(driver) == "asked"
    network.cut(1, 2)
    network.mend(1, 2)
    assert next_told(driver) is True
    driver.wait()
