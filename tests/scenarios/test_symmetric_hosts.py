"""`nbray symmetric-run --address` on several hosts with addresses and links of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.net_hosts import CLEAR, Network, Weather, net_hosts, why_no_networks

from nbray.testing import wait_until
from nbray.testing.processes import kill_all

_REASON = why_no_networks()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.timeout(240),
]
PORT = 7733
SMALL = ("--include-dashboard=false", "--object-store-memory=80000000", "--num-cpus=1")
PROGRAM = """
import nbray, os, pathlib, sys, time
nbray.init()
@nbray.remote(max_retries=3)
def where():
    time.sleep(0.1)
    return nbray.get_runtime_context().get_node_id()
rounds = int(sys.argv[1])
found, until = set(), time.monotonic() + 60
while len(found) < 3 and time.monotonic() < until:  # one may have its worker later
    found |= set(nbray.get([where.remote() for _ in range(12)], timeout=90))
for number in range(rounds):
    found |= set(nbray.get([where.remote() for _ in range(12)], timeout=90))
    pathlib.Path(sys.argv[2], "begun").touch()
    while number + 1 < rounds and not pathlib.Path(sys.argv[2], "go").exists():
        time.sleep(0.05)
print("ran on", len(found), flush=True)
sys.exit(7)
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with net_hosts(3) as made:
        for host in made.hosts:
            host.env["NBRAY_AUTH_TOKEN"] = "s" * 64
            host.env["NBRAY_HEALTH_CHECK_PERIOD_S"] = "1"
            host.env["NBRAY_HEALTH_CHECK_FAILURE_THRESHOLD"] = "3"
        yield made


def start(network: Network, number: int, tmp_path: Path, rounds: int = 1) -> subprocess.Popen[str]:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    address = f"{network.hosts[0].address}:{PORT}"
    return network.hosts[number].start(
        "nbray", "symmetric-run", "--address", address, "--min-nodes=3", *SMALL, "--",
        sys.executable, str(program), str(rounds), str(tmp_path),
    )  # fmt: skip


def ends(process: subprocess.Popen[str], code: int) -> str:
    said = process.communicate(timeout=90)[0]
    assert process.returncode == code, said
    return said


def test_three_hosts_are_one_cluster_twice_at_one_port(network: Network, tmp_path: Path) -> None:
    for _ in range(2):
        first, *others = [start(network, number, tmp_path) for number in range(3)]
        assert "ran on 3" in ends(first, 7)
        for other in others:
            ends(other, 0)
        assert not any(host.processes() for host in network.hosts)


def test_a_host_that_is_late_and_far_is_waited_for(network: Network, tmp_path: Path) -> None:
    network.set(Weather(delay_ms=150), 2)
    network.set(Weather(delay_ms=150), None, 2)
    try:
        first, second = (start(network, number, tmp_path) for number in range(2))
        assert first.stdout is not None
        said = first.stdout.readline()
        assert "of 3 nodes are there" in said
        third = start(network, 2, tmp_path)
        third.send_signal(signal.SIGSTOP)
        time.sleep(3)
        third.send_signal(signal.SIGCONT)
        assert "with 3 node(s)" in ends(first, 7)
        ends(second, 0)
        ends(third, 0)
    finally:
        network.set(CLEAR)


def test_a_host_that_dies_in_the_middle_is_done_without(network: Network, tmp_path: Path) -> None:
    first, second, third = (start(network, number, tmp_path, 2) for number in range(3))
    wait_until((tmp_path / "begun").exists, "the first tasks", 60)
    third.kill()
    kill_all(network.hosts[2].processes())
    third.wait()
    (tmp_path / "go").touch()
    assert "ran on 3" in ends(first, 7)
    ends(second, 0)
    assert not any(host.processes() for host in network.hosts)


def test_where_the_head_dies_the_others_end_and_say_so(network: Network, tmp_path: Path) -> None:
    for host in network.hosts:
        host.env["NBRAY_GCS_RPC_SERVER_RECONNECT_TIMEOUT_S"] = "4"
    first, *others = [start(network, number, tmp_path, 2) for number in range(3)]
    wait_until((tmp_path / "begun").exists, "the first tasks", 60)
    first.kill()
    kill_all(network.hosts[0].processes())
    for other in others:
        assert "ended before the head said that it is over" in ends(other, 1)
    (tmp_path / "go").touch()  # the command was the user's, and finds its cluster gone
    first.communicate(timeout=60)
    assert not any(host.processes() for host in network.hosts)
