"""Objects of nbray over links with a delay, or behind one uplink, beside a plain connection.

Between nodes, and to and from a driver that is none of them.

The hosts are network namespaces, as the tests make them, so it takes root.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any

from benchmarks.bench import Bench
from benchmarks.engines import ROOT

sys.path.append(str(ROOT / "tests"))

from support.net_hosts import Weather, net_hosts, why_no_networks

if TYPE_CHECKING:
    from support.net_hosts import Network

_NODES = 3
_DELAY_MS = 20.0
_UPLINK = 200.0
_CLIENT_PORT = 10001
_MB = 1_000_000
_BIG, _SMALL = 100 * _MB, 40 * _MB

_SEND = """
import os, socket, sys
size = int(sys.argv[1])
file = os.memfd_create("source")
os.posix_fallocate(file, 0, size)
server = socket.create_server(("0.0.0.0", 7777))
print("ready", flush=True)
while True:
    peer, _ = server.accept()
    sent = 0
    while sent < size:
        sent += os.sendfile(peer.fileno(), file, sent, size - sent)
    peer.recv(1)
    peer.close()
"""

_RECEIVE = """
import json, socket, sys, time
size = int(sys.argv[2])
view = memoryview(bytearray(size))
samples = []
for _ in range(3):
    begun = time.perf_counter()
    with socket.create_connection((sys.argv[1], 7777)) as sock:
        came = 0
        while came < size:
            came += sock.recv_into(view[came:], 0, socket.MSG_WAITALL)
        samples.append(time.perf_counter() - begun)
        sock.send(b"1")
print(json.dumps(samples))
"""

_DRIVER = """
import json, sys, time
import numpy as np
import nbray
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as At
nbray.init("auto", log_to_driver=False)
by_address = {row["NodeManagerAddress"]: row["NodeID"] for row in nbray.nodes()}
nodes = [by_address[address] for address in sorted(by_address)][1:]
@nbray.remote(num_cpus=0)
def make(size):
    return np.ones(size, np.uint8)
@nbray.remote(num_cpus=0)
def length(array):
    return len(array)
def on(function, number):
    return function.options(scheduling_strategy=At(nodes[number], soft=False))
def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
def push(size, numbers):
    ref = nbray.put(np.ones(size, np.uint8))
    def lengths():
        found = nbray.get([on(length, number).remote(ref) for number in numbers])
        assert found == [size] * len(numbers)
    return timed(lengths)
def pull(size):
    ref = on(make, 0).remote(size)
    nbray.wait([ref], fetch_local=False)
    def whole():
        assert len(nbray.get(ref)) == size
    return timed(whole)
nbray.get([on(length, number).remote([]) for number in range(len(nodes))] + [on(make, 0).remote(1)])
size = int(sys.argv[2])
if sys.argv[1] == "pull":
    print(json.dumps([pull(size) for _ in range(4)][1:]))
else:
    one = [push(size, [0]) for _ in range(3)]
    print(json.dumps([one, [push(size, range(len(nodes))) for _ in range(3)]]))
"""


_FAR = """
import json, sys, time
import numpy as np
import nbray
nbray.init(sys.argv[1], log_to_driver=False)
size = int(sys.argv[2])
@nbray.remote(num_cpus=0)
def make():
    return np.ones(size, np.uint8)
def timed(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
array = np.ones(size, np.uint8)
put = [timed(lambda: nbray.put(array)) for _ in range(4)][1:]
refs = [make.remote() for _ in range(4)]
nbray.wait(refs, num_returns=len(refs), fetch_local=False)
def whole(ref):
    assert len(nbray.get(ref)) == size
print(json.dumps([put, [timed(lambda: whole(ref)) for ref in refs][1:]]))
"""


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    Bench.add_arguments(parser)
    parser.add_argument("--outside")
    args = parser.parse_args()
    bench = Bench(None, args)
    missing = why_no_networks()
    if args.engine != "nbray":
        missing = "the rows over links, which are nbray's only"
    if missing:
        bench.tell({"missing": missing})
        return
    bench.tell({"version": metadata.version("nbray")})
    with net_hosts(_NODES + 1) as network:
        network.start_nodes("--object-store-memory", "500MB")
        network.set(Weather(delay_ms=_DELAY_MS))
        plain, pulled = _plain(network), statistics.median(_told(network, "pull", _BIG))
        bench.report("plain connection at 40 ms, MB/s", _BIG / _MB / plain)
        bench.report("100 MB at 40 ms, MB/s", _BIG / _MB / pulled)
        bench.report("100 MB at 40 ms as part of a plain connection", plain / pulled)
        for host in network.hosts:
            network.set(Weather(uplink=_UPLINK), host.number)
        one, three = map(statistics.median, _told(network, "push", _SMALL))
        bench.report("40 MB behind an uplink to three nodes, as times of one", three / one)
    with net_hosts(2) as network:
        head, far = network.hosts
        head.run(
            "nbray", "start", "--head", "--node-ip-address", head.address, "--num-cpus", "1",
            "--include-dashboard", "false", "--object-store-memory", "500MB",
            "--ray-client-server-port", str(_CLIENT_PORT),
        )  # fmt: skip
        network.give_token(far)
        network.set(Weather(delay_ms=_DELAY_MS))
        plain = _plain(network)
        text = far.run_python(
            _FAR, f"nbray://{head.address}:{_CLIENT_PORT}", str(_BIG), timeout=200
        )
        put, got = map(statistics.median, json.loads(text.splitlines()[-1]))
        bench.report("from afar: put of 100 MB at 40 ms as part of a plain connection", plain / put)
        bench.report("from afar: get of 100 MB at 40 ms as part of a plain connection", plain / got)


def _told(network: Network, what: str, size: int) -> Any:
    text = network.hosts[0].run_python(_DRIVER, what, str(size), timeout=200)
    return json.loads(text.splitlines()[-1])


def _plain(network: Network) -> float:
    """Seconds of one plain connection from host 1 to host 0."""
    receiver, sender = network.hosts[:2]
    sending: subprocess.Popen[str] = sender.start_python(_SEND, str(_BIG))
    try:
        assert sending.stdout is not None
        assert sending.stdout.readline() == "ready\n"
        text = receiver.run_python(_RECEIVE, sender.address, str(_BIG), timeout=200)
    finally:
        sending.kill()
        sending.wait()
    return float(statistics.median(json.loads(text.splitlines()[-1])))


if __name__ == "__main__":
    main()
