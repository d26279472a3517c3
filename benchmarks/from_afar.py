"""Calls and values of a driver from afar, over loopback: nbray's tunnel, and Ray Client.

``ray start --head`` and ``nbray start --head`` take the same options here. Both have a token in the
environment: without one Ray's client is refused, and says no more than that its connection timed
out. ``ray stop`` ends whatever it finds, so that Ray runs in a PID namespace of its own.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np

from benchmarks import engines
from benchmarks.bench import Bench, expect, seconds_of
from benchmarks.commands import free_port, is_secluded

_MB = 1 << 20
_BULK = 50 * _MB
_ATTEMPTS = 3


def main() -> None:
    """Measure one engine."""
    parser = argparse.ArgumentParser()
    Bench.add_arguments(parser)
    parser.add_argument("--outside", required=True, help="the PID namespace of the caller")
    args = parser.parse_args()
    engine, module = engines.BY_NAME[args.engine](), importlib.import_module(args.engine)
    bench = Bench(module, args)
    bench.tell({"version": module.__version__, "python": sys.version.split()[0]})
    if engine.stops_others and not is_secluded(args.outside):
        bench.tell({"problem": "not in a PID namespace of its own"})
        return
    try:
        _connect(engine, module)
        _measure(bench)
        module.shutdown()
        engine.command("stop")
    except subprocess.CalledProcessError as error:
        bench.tell({"problem": f"{error}\n{(error.stdout + error.stderr)[-2000:]}"})
        engine.command("stop")


def _connect(engine: engines.Engine, module: Any) -> None:
    """Begin a head and connect to it, anew when that fails.

    Ray's server for clients forks while gRPC runs in it. Now and then the child fails a check of
    gRPC's ("next_worker->state == KICKED") before it has become a server, and the client waits for
    it until it is refused, which is told to be soon. It also ends when the raylet needs long.
    """
    os.environ["RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S"] = "15"
    for attempt in range(1, _ATTEMPTS + 1):
        port = free_port()
        try:
            engine.command(
                "start", "--head", "--node-ip-address=127.0.0.1", f"--port={free_port()}",
                f"--ray-client-server-port={port}", "--num-cpus=2", "--include-dashboard=false",
            )  # fmt: skip
            module.init(f"{engine.name}://127.0.0.1:{port}")
        except (ConnectionError, RuntimeError, subprocess.CalledProcessError) as error:
            print(f"attempt {attempt}: {error}", file=sys.stderr)
            engine.command("stop")
            if attempt == _ATTEMPTS:
                raise
        else:
            return


def _measure(bench: Bench) -> None:
    engine = bench.engine

    @engine.remote(num_cpus=0)
    class Echo:
        def same(self, value: Any = None) -> Any:
            return value

    @engine.remote(num_cpus=0)
    def same(value: Any = None) -> Any:
        return value

    actor: Any = Echo.remote()  # type: ignore[attr-defined]
    bench.rate("from afar: actor calls sync", lambda: engine.get(actor.same.remote()), gives=None)
    bench.rate(
        "from afar: actor calls async",
        lambda: engine.get([actor.same.remote() for _ in range(1000)]), 1000, gives=[None] * 1000,
    )  # fmt: skip
    bench.rate("from afar: tasks sync", lambda: engine.get(same.remote()), gives=None)
    bench.rate(
        "from afar: tasks async",
        lambda: engine.get([same.remote() for _ in range(1000)]), 1000, gives=[None] * 1000,
    )  # fmt: skip
    ref, array = engine.put(0), np.zeros(_BULK, np.uint8)
    bench.rate("from afar: put small", lambda: engine.put(0))
    bench.rate("from afar: get small", lambda: engine.get(ref), gives=0)
    bench.rate("from afar: put, MB/s", lambda: engine.put(array), _BULK / 1e6)

    @engine.remote(num_cpus=0)
    def make() -> np.ndarray:
        return np.zeros(_BULK, np.uint8)

    refs = [make.remote() for _ in range(4)]
    engine.wait(refs, num_returns=len(refs))

    def fetch(one: Any) -> None:
        expect(len(engine.get(one)), _BULK)

    fetched = [seconds_of(partial(fetch, one)) for one in refs]
    bench.report("from afar: get, MB/s", *(_BULK / 1e6 / seconds for seconds in fetched[1:]))


if __name__ == "__main__":
    main()
