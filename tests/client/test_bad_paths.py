"""What lies between a remote driver and its cluster is slow, cut, or ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from support.far_driver import TOKEN, gateway_of, my_remote, start_far_head
from support.net_hosts import Weather, net_hosts, why_no_networks
from support.stopping import stand_still

import nbray
from nbray.common.addresses import split
from nbray.exceptions import GetTimeoutError, LocalRayletDiedError
from nbray.launcher.local import RunningNode
from nbray.testing import Proxy, wait_until

pytestmark = pytest.mark.slow
MB = 1 << 20

_LAPTOP = """
import sys, time
import numpy as np
import nbray

nbray.init(sys.argv[1])

@nbray.remote(num_cpus=0)
class Counter:
    count = 0
    def add(self):
        self.count += 1
        print("counted", self.count)
        return self.count

@nbray.remote(num_cpus=0)
def total(array):
    return float(array.sum())

counter = Counter.remote()
seen = []
until = time.monotonic() + float(sys.argv[2])
print("begun", flush=True)
while time.monotonic() < until:
    seen.append(nbray.get(counter.add.remote()))
    assert nbray.get(total.remote(nbray.put(np.ones(1 << 16)))) == 1 << 16
assert seen == list(range(1, len(seen) + 1)), seen
print("calls:", len(seen), flush=True)
"""


@pytest.mark.skipif(bool(why_no_networks()), reason=why_no_networks() or "there are")
def test_cuts_of_one_and_of_twenty_seconds_lose_nothing_over_a_slow_link() -> None:
    with net_hosts(2) as net:
        head, laptop = net.hosts
        head.run(
            "nbray", "start", "--head", "--node-ip-address", head.address,
            "--include-dashboard", "false", "--num-cpus", "2",
            "--object-store-memory", "200MB",
        )  # fmt: skip
        token = laptop.home / ".nbray" / "auth_token"
        token.parent.mkdir(mode=0o700)
        shutil.copy(head.home / ".nbray" / "auth_token", token)
        slow = Weather(delay_ms=20)
        net.set(slow)
        program = laptop.start_python(_LAPTOP, f"nbray://{head.address}:10001", "30")
        assert program.stdout is not None
        said = program.stdout.readline()
        assert said == "begun\n", said + program.stdout.read()
        for seconds in (1.0, 20.0):
            net.cut(0, 1)
            time.sleep(seconds)  # for so long nothing passes
            net.set(slow)
        rest = program.communicate(timeout=90)[0]
        assert program.returncode == 0 and "calls: " in rest, rest
        assert "was lost" in rest and "connected again" in rest, rest
        # A driver that has left is not waited for.
        log = next(head.root.glob("s*/logs/gateway.log"))
        wait_until(lambda: "has left" in log.read_text(), "its goodbye")


@nbray.remote
class Counter:
    count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


@pytest.mark.parametrize("away_s", [6.0, 14.0])
def test_a_cut_of_300_s_loses_nothing_and_one_of_700_s_ends_the_driver_each_at_a_fiftieth(
    path: Proxy, address: str, monkeypatch: pytest.MonkeyPatch, away_s: float
) -> None:
    """The grace is a fiftieth of the default, 600 s, and time is real."""
    monkeypatch.setenv("NBRAY_CLIENT_RECONNECT_GRACE_PERIOD", "12")
    nbray.init(address)
    counter = Counter.remote()
    assert nbray.get([counter.add.remote() for _ in range(20)]) == list(range(1, 21))
    pid = nbray.get(nbray.remote(os.getpid).remote())
    path.refuse()
    began = time.monotonic()
    path.cut()
    refs = [counter.add.remote() for _ in range(20)]
    if away_s < 12:
        time.sleep(max(0.0, away_s - (time.monotonic() - began)))
        path.refuse(False)
        assert nbray.get(refs, timeout=60) == list(range(21, 41))
        assert psutil.pid_exists(pid)
    else:
        wait_until(lambda: not psutil.pid_exists(pid), "the end of the job's workers")
        assert time.monotonic() - began > 11.5, "not before the grace is over"
        time.sleep(max(0.0, away_s - (time.monotonic() - began)))
        path.refuse(False)
        with pytest.raises(LocalRayletDiedError, match="out of reach"):
            nbray.get(refs, timeout=60)


def test_the_gcs_may_be_killed_while_the_path_is_cut(
    head: RunningNode, path: Proxy, address: str
) -> None:
    nbray.init(address)
    counter = Counter.remote()
    assert nbray.get(counter.add.remote()) == 1
    path.refuse()
    path.cut()
    head.kill_gcs_server()
    refs = [counter.add.remote() for _ in range(20)]
    other = Counter.remote()
    path.refuse(False)
    assert nbray.get(refs) == list(range(2, 22))
    assert nbray.get(other.add.remote()) == 1
    assert nbray.cluster_resources()["CPU"] == 2


def test_an_interrupted_put_leaves_nothing_and_writes_nothing_later(
    head: RunningNode, path: Proxy, address: str
) -> None:
    nbray.init(address)
    before = nbray.available_resources()["object_store_memory"]
    large = np.ones(8 * MB)
    for _ in range(3):
        path.hold()  # what was sent by now waits on its way
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
            nbray.put(large)
        path.release()
        kept = [nbray.put(np.full(2 * MB, i)) for i in range(4)]
        for i, ref in enumerate(kept):
            assert (nbray.get(ref) == i).all()
        del kept, ref
    wait_until(
        lambda: nbray.available_resources()["object_store_memory"] >= before, "room in the store"
    )


def test_a_get_of_a_large_value_keeps_its_time(
    head: RunningNode, path: Proxy, address: str
) -> None:
    nbray.init(address)
    ref = nbray.put(np.ones(8 * MB))
    path.hold()
    with pytest.raises(GetTimeoutError):
        nbray.get(ref, timeout=1)
    path.release()
    assert nbray.get(ref).sum() == 8 * MB


def test_what_stands_still_for_a_while_loses_nothing(head: RunningNode, address: str) -> None:
    nbray.init(address)
    counter = Counter.remote()
    nbray.get(counter.add.remote())
    for process in (psutil.Process(my_remote().agent_pid), gateway_of(head)):
        process.suspend()
        refs = [counter.add.remote() for _ in range(50)]
        threading.Timer(3.0, process.resume).start()
        nbray.get(refs)
    assert nbray.get(counter.add.remote()) == 102


@pytest.mark.parametrize("end", [RunningNode.kill_raylet, RunningNode.stop])
@pytest.mark.parametrize("agent_stands_still", [False, True])
def test_the_end_of_the_head_is_said_also_to_one_who_hears_it_late(
    head: RunningNode, address: str, end: Callable[[RunningNode], None], agent_stands_still: bool
) -> None:
    nbray.init(address)
    ref = nbray.remote(time.sleep).remote(1000)
    nbray.get(nbray.remote(os.getpid).remote())
    agent = psutil.Process(my_remote().agent_pid)
    if agent_stands_still:
        stand_still(agent.pid)
    end(head)
    agent.resume()
    with pytest.raises(LocalRayletDiedError, match=r"lost (the|its) cluster"):
        nbray.get(ref, timeout=60)


def test_a_gigabyte_passes_in_bounded_memory(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if psutil.virtual_memory().available < 5 << 30:
        pytest.skip("it needs 5 GB of memory")
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    node = start_far_head(object_store_memory=1200 << 20)
    try:
        nbray.init(f"nbray://{node.client_server}")
        large = np.arange(1 << 27)
        ref = nbray.put(large)
        assert (nbray.get(ref) == large).all()
        for pid in (my_remote().agent_pid, gateway_of(node).pid):
            assert _own_memory(pid) < 150 * MB
        nbray.shutdown()
    finally:
        node.stop()


def _own_memory(pid: int) -> int:
    """What a process has for itself, without the store that it maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def test_two_drivers_and_ten_thousand_tasks_share_a_gateway(
    head: RunningNode, address: str
) -> None:
    program = (
        f"import nbray; nbray.init({address!r}); f = nbray.remote(abs);"
        "print(sum(nbray.get([f.remote(i) for i in range(5000)])))"
    )

    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    nbray.init(address)
    work = nbray.remote(abs)
    assert sum(nbray.get([work.remote(i) for i in range(10_000)])) == 49_995_000
    assert other.communicate(timeout=100)[0].strip() == "12497500"


def test_a_worker_may_first_ask_a_driver_that_is_away_for_longer_than_others_may_be(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("NBRAY_PEER_PATIENCE_S", "0.5")
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "1")
    node = start_far_head(num_cpus=2, object_store_memory=100 * MB)

    @nbray.remote
    def asks(refs: list[nbray.ObjectRef], sign: Path) -> int:
        sign.touch()
        return nbray.get(refs[0]) + 1

    @nbray.remote
    def passes_on(refs: list[nbray.ObjectRef], begun: Path, go: Path) -> int:
        begun.touch()
        wait_until(go.exists, "the word to go on")
        return nbray.get(asks.remote(refs, go.parent / "asks"))

    begun, go = tmp_path / "begun", tmp_path / "go"
    with Proxy(split(node.client_server)) as path:
        nbray.init(f"nbray://{path.place[0]}:{path.place[1]}")
        answer = passes_on.remote([nbray.put(41)], begun, go)
        wait_until(begun.exists, "the task")
        path.refuse()
        path.cut()
        go.touch()
        wait_until((tmp_path / "asks").exists, "its question")
        time.sleep(4)  # longer than any process of the cluster may be out of reach
        path.refuse(False)
        assert nbray.get(answer) == 42
        nbray.shutdown()
    node.stop()
