"""Objects over links that are slow, lossy and cut, and between nodes that stop and die."""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.net_hosts import Host, Network, Weather, net_hosts, why_no_networks

from nbray.testing import kill_node, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
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


MB = 1 << 20
SCENARIOS = Path(__file__).parents[1] / "scenarios"


@pytest.fixture(scope="module")
def shared_network() -> Iterator[Network]:
    with net_hosts(4) as network:
        network.start_nodes("--object-store-memory", "100MB", "--resources", '{"slot": 2}', cpus=2)
        yield network


@pytest.fixture
def network(shared_network: Network) -> Iterator[Network]:
    """Four nodes with stores of 100 MB; afterwards the links are clear and the stores empty."""
    yield shared_network
    shared_network.set(Weather())


@pytest.fixture
def fresh_network() -> Iterator[Network]:
    with net_hosts(4) as network:
        network.start_nodes("--object-store-memory", "100MB")
        yield network


def until_it_comes(host: Host, before: int, least: int) -> None:
    wait_until(lambda: host.received() - before > least, "the first bytes to come", 60)


def test_a_value_crosses_a_link_with_delay_jitter_and_loss_unchanged(network: Network) -> None:
    network.set(Weather(delay_ms=10, jitter_ms=2, loss=1))
    program = HEAD + "tell(nbray.get(on(check, 2).remote(on(make, 1).remote(20 << 20))))"
    assert told(network.hosts[0].run_python(program)) is True


@pytest.mark.parametrize("one_way", [False, True])
def test_a_value_arrives_when_a_link_that_was_cut_in_its_middle_is_mended(
    network: Network, one_way: bool
) -> None:
    network.set(Weather(rate=100), 1, 2)
    program = HEAD + (
        "made = on(make, 1).remote(40 << 20)\n"
        "nbray.wait([made], fetch_local=False)\n"
        "right = on(check, 2).remote(made)\n"
        "tell('asked')\n"
        "tell(nbray.get(right, timeout=100))\n"
    )
    before = network.hosts[2].received()
    driver = network.hosts[0].start_python(program)
    assert next_told(driver) == "asked"
    until_it_comes(network.hosts[2], before, 4 * MB)
    if one_way:
        network.set(Weather(cut=True), 1, 2)
    else:
        network.cut(1, 2)
    time.sleep(3)  # a cut lasts for a while
    network.mend(1, 2)
    assert next_told(driver) is True
    driver.wait()


SPREAD = (
    HEAD
    + """
value = nbray.put(np.random.default_rng(5).integers(0, 256, 24 << 20, np.uint8))
right = {number: on(check, number).remote(value, 5) for number in (1, 2, 3)}
tell("asked")
tell([nbray.get(right[number], timeout=100) for number in (2, 3)])
sys.stdin.close()
try:
    tell(nbray.get(right[1], timeout=100))
except nbray.exceptions.NbrayError as error:
    tell(type(error).__name__)
"""
)


def test_the_others_get_a_value_when_a_node_in_the_middle_stands_still(network: Network) -> None:
    network.set(Weather(uplink=100), 0)
    before = network.hosts[1].received()
    driver = network.hosts[0].start_python(SPREAD)
    assert next_told(driver) == "asked"
    until_it_comes(network.hosts[1], before, 4 * MB)
    still = network.hosts[1].raylet()
    still.suspend()
    try:
        assert next_told(driver) == [True, True]
    finally:
        still.resume()
    assert next_told(driver) is True
    driver.wait()


def test_the_others_get_a_value_when_a_node_in_the_middle_dies(fresh_network: Network) -> None:
    network = fresh_network
    network.set(Weather(uplink=100), 0)
    before = network.hosts[1].received()
    driver = network.hosts[0].start_python(SPREAD)
    assert next_told(driver) == "asked"
    until_it_comes(network.hosts[1], before, 4 * MB)
    kill_node(network.hosts[1].raylet())
    assert next_told(driver) == [True, True]
    driver.kill()
    driver.wait()


def test_a_value_larger_than_the_store_that_receives_it_arrives(network: Network) -> None:
    program = HEAD + "tell(nbray.get(on(check, 2).remote(on(make, 1).remote(130 << 20))))"
    assert told(network.hosts[0].run_python(program, timeout=100)) is True


@pytest.mark.timeout(300)
def test_many_values_that_are_asked_for_at_once_all_arrive(network: Network) -> None:
    program = (
        HEAD
        + """
@nbray.remote(num_cpus=0)
def make_many(count):
    return [nbray.put(np.full(15_000, number)) for number in range(count)]
@nbray.remote(num_cpus=0)
def add_many(refs):
    return sum(int(sum(array[0] for array in nbray.get(refs[at : at + 500])))
               for at in range(0, len(refs), 500))
refs = nbray.get(on(make_many, 1).remote(10_000))
tell(nbray.get(on(add_many, 2).remote(refs), timeout=250))
"""
    )
    assert told(network.hosts[0].run_python(program, timeout=280)) == sum(range(10_000))


def test_what_a_process_was_fetching_when_it_died_comes_to_the_next_that_asks(
    network: Network,
) -> None:
    program = (
        HEAD
        + """
import os, signal
@nbray.remote(num_cpus=0, max_retries=0)
class Asker:
    def pid(self):
        return os.getpid()
    def look(self, refs):
        return len(nbray.get(refs[0]))
value = on(make, 1).remote(24 << 20)
nbray.wait([value], fetch_local=False)
asker = Asker.options(scheduling_strategy=At(ids[2], soft=False)).remote()
pid = nbray.get(asker.pid.remote())
lost = asker.look.remote([value])
tell(pid)
try:
    nbray.get(lost, timeout=60)
except nbray.exceptions.ActorDiedError:
    tell("died")
tell(nbray.get(on(check, 2).remote(value), timeout=60))
""".replace("num_cpus=0, max_retries=0)\nclass", "num_cpus=0)\nclass")
    )
    network.set(Weather(rate=50), 1, 2)
    before = network.hosts[2].received()
    driver = network.hosts[0].start_python(program)
    pid = next_told(driver)
    until_it_comes(network.hosts[2], before, 2 * MB)
    network.hosts[2].run("kill", "-9", str(pid))
    assert next_told(driver) == "died"
    network.set(Weather(), 1, 2)
    assert next_told(driver) is True
    driver.wait()


CHAOS = """
import random, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/.."]  # beside the workload, and its support
import nbray
nbray.init("auto", log_to_driver=False)
from chaos_workload import Workload
story = []
work = Workload(random.Random(int(sys.argv[2])), story.append)
end = time.monotonic() + float(sys.argv[3])
print("told 0", flush=True)
try:
    while time.monotonic() < end or sum(work.done.values()) < 20:
        work.step()
    work.finish()
except BaseException:
    print("\\n".join(story[-30:]))
    raise
print("told", sum(work.done.values()), flush=True)
"""


def test_the_workload_of_chaos_gives_right_results_over_links_that_are_cut_and_mended(
    network: Network,
) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    network.set(Weather(delay_ms=3, jitter_ms=1, loss=0.5))
    driver = network.hosts[0].start_python(CHAOS, str(SCENARIOS), str(seed), "20")
    assert next_told(driver) == 0
    while driver.poll() is None:
        first, second = rng.sample(range(4), 2)
        worse = rng.choice(
            [Weather(cut=True), Weather(cut=True), Weather(delay_ms=60, loss=5), Weather(rate=20)]
        )
        both = rng.random() < 0.5
        network.set(worse, first, second)
        if both:
            network.set(worse, second, first)
        time.sleep(rng.uniform(0.2, 2.5))  # a cut lasts for a while
        network.set(Weather(delay_ms=3, jitter_ms=1, loss=0.5))
        time.sleep(rng.uniform(0.2, 1.0))
    assert next_told(driver) >= 20
