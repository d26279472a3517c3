"""A list of machines of which as many have nodes as the demand needs, by real ssh."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.ssh_hosts import Hosts, ssh_hosts, why_not

from nbray.testing import wait_until

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),
]
HEAD, FIRST, SECOND = "10.77.7.11", "10.77.7.12", "10.77.7.13"
SMALL = "--num-cpus=1 --object-store-memory=100000000"
FILE = f"""
cluster_name: grows
provider: {{type: local, head_ip: {HEAD}, worker_ips: [{FIRST}, {SECOND}]}}
auth: {{ssh_user: root, ssh_private_key: ~/.ssh/id_ed25519}}
tls: true
min_workers: 1
max_workers: 2
idle_timeout_minutes: 0.05
head_start_ray_commands:
  - nbray start --head --port=6379 {SMALL.replace("cpus=1", "cpus=0")} --include-dashboard=0
worker_setup_commands: [echo set up]
worker_start_ray_commands: [nbray start --address=$NBRAY_HEAD_IP:6379 {SMALL}]
"""
PROGRAM = """
import nbray, os, time
from nbray.experimental import internal_kv as kv
nbray.init()
@nbray.remote(max_retries=0)
def where():  # until both are there, however long the second machine takes
    deadline = time.monotonic() + 120
    kv._internal_kv_put(os.uname().nodename, b"", namespace="met")
    # Nothing is got meanwhile: that would lend the CPU to the other one.
    while len(kv._internal_kv_list("", namespace="met")) < 2:
        assert time.monotonic() < deadline, "no second machine came"
        time.sleep(0.2)
    return os.uname().nodename
refs = [where.remote() for _ in range(2)]
print("ran on", len(set(nbray.get(refs, timeout=130))), "hosts")
"""


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ssh_hosts(4) as made:
        yield made


def raylets(hosts: Hosts) -> set[int]:
    return {
        number
        for number in range(1, hosts.count)
        if any(" nbray.raylet " in line for line in hosts.processes(number))
    }


def test_machines_come_with_the_demand_and_go_without_it(hosts: Hosts) -> None:
    (hosts.home(0) / "cluster.yaml").write_text(FILE)
    (hosts.home(0) / "program.py").write_text(PROGRAM)

    def nbray(verb: str, *words: str) -> str:
        done = hosts.run(0, "nbray", verb, "cluster.yaml", *words, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    try:
        shown = nbray("up", "-y")
        assert "up to 2 come and go with the demand" in shown
        assert raylets(hosts) == {1, 2}, "the head, and as many as there are to be at least"
        key = next(hosts.home(1).glob(".nbray/clusters/grows/*/deploy_key"))
        assert key.stat().st_mode & 0o777 == 0o600
        assert not list(hosts.home(0).rglob("deploy_key")), "it is made on the head, and stays"
        assert "ran on 2 hosts" in nbray("submit", "program.py")
        wait_until(lambda: len(raylets(hosts)) == 2, "the end of the node beyond the least", 60)
        status = nbray("exec", "nbray status -v")
        assert "local.cluster.node 1 to 2" in status and "min_workers" in status, status
        assert "no worker is left" in nbray("down", "-y", "--workers-only")
        assert raylets(hosts) == {1}
        nbray("up", "-y")
        wait_until(lambda: len(raylets(hosts)) == 2, "the node of min_workers", 60)
        nbray("down", "-y", "--keep-min-workers")
        assert len(raylets(hosts)) == 2
    finally:
        nbray("down", "-y")
    assert not raylets(hosts)


def test_up_and_the_autoscaler_start_no_node_twice_whoever_is_killed(hosts: Hosts) -> None:
    """The head's autoscaler wants min_workers at its first look, as `up` does at that moment."""
    text = FILE.replace("[echo set up]", "[sleep 2]").replace("tls: true\n", "")
    (hosts.home(0) / "cluster.yaml").write_text(text)

    def up() -> str:
        done = hosts.run(0, "nbray", "up", "cluster.yaml", "-y", timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def state() -> str:
        return hosts.run(0, "nbray", "exec", "cluster.yaml", "nbray status -v").stdout

    def says_nothing_failed() -> None:
        assert "no failures" in state().split("Recent failures")[1].split("Resources")[0], state()

    try:
        up()
        assert raylets(hosts) == {1, 2}
        says_nothing_failed()
        worker = next(line for line in hosts.processes(2) if " nbray.raylet " in line)
        hosts.run(2, "kill", "-9", worker.split()[0])
        up()  # whichever of the two is quicker
        wait_until(lambda: raylets(hosts) in ({1, 2}, {1, 3}), "one worker", 60)
        hosts.run(0, "nbray", "down", "cluster.yaml", "-y", timeout=100)
        cut_off = hosts.start(0, "nbray", "up", "cluster.yaml", "-y")
        wait_until(lambda: 1 in raylets(hosts), "the head")
        for line in hosts.run(0, "pgrep", "-f", "cluster.yaml -y").stdout.split():
            hosts.run(0, "kill", "-9", line)
        cut_off.communicate(timeout=60)
        wait_until(lambda: len(raylets(hosts)) == 2, "the autoscaler to start what up has not", 90)
        up()
        assert len(raylets(hosts)) == 2
        says_nothing_failed()
    finally:
        hosts.run(0, "nbray", "down", "cluster.yaml", "-y", timeout=100)
    assert not raylets(hosts)
