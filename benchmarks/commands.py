"""The engines' commands: a head node, a second node, and their end, timed.

``ray stop`` sends SIGTERM to every process of the machine whose command line holds one of some
keywords ("monitor.py" is one), whoever started it. So Ray's commands run in a PID namespace of
their own, where they see no other process, and never outside of one.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata

from benchmarks import engines
from benchmarks.bench import Bench, expect

_NODES_ALIVE = r"\balive\b|^ \d+ node_"


def namespace() -> str:
    """The PID namespace of this process."""
    return os.readlink("/proc/self/ns/pid")


def secluded(command: Sequence[str]) -> list[str]:
    """``command`` in a new PID namespace that ends with it; bash reaps the orphans in it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return [
        shutil.which("unshare") or "unshare", *user, "--pid", "--fork", "--mount-proc",
        "--kill-child", "bash", "-c", '"$@"; exit $?', "bash", *command,
    ]  # fmt: skip


def is_secluded(outside: str) -> bool:
    """Whether no process outside can be seen: another namespace, and a /proc of its own."""
    return namespace() != outside and os.readlink("/proc/self") == str(os.getpid())


def free_port() -> int:
    """A free port that the kernel gives to nobody else in between."""
    while True:
        port = random.randrange(24_001, 30_000)  # Ray looks for its own below
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue  # it is taken


def main() -> None:
    """Time the commands of one engine."""
    parser = argparse.ArgumentParser()
    Bench.add_arguments(parser)
    parser.add_argument("--outside", required=True, help="the PID namespace of the caller")
    args = parser.parse_args()
    engine, bench = engines.BY_NAME[args.engine](), Bench(None, args)
    if engine.stops_others and not is_secluded(args.outside):
        bench.tell({"problem": "not in a PID namespace of its own"})
        return
    bench.tell({"version": metadata.version(engine.name), "python": platform.python_version()})
    try:
        _measure(engine, bench)
    except subprocess.CalledProcessError as error:
        bench.tell({"problem": f"{error}\n{(error.stdout + error.stderr)[-2000:]}"})
        engine.command("stop")


def _measure(engine: engines.Engine, bench: Bench) -> None:
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    again = bench.times(10)

    def shown(said: str) -> int:
        return len(re.findall(_NODES_ALIVE, said, re.MULTILINE))

    def timed(row: str, *arguments: str, times: int = 1) -> str:
        for _ in range(times):
            begun = time.perf_counter()
            said = engine.command(*arguments).stdout
            bench.report(row, time.perf_counter() - begun)
        return said

    engine.command("--help")  # what it reads has been read
    expect("Usage:" in timed("--help", "--help", times=again), True)
    timed("start --head", "start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}")
    timed("second node", "start", f"--address={address}")
    until = time.monotonic() + 30  # Ray's shows what its monitor has looked at
    while shown(engine.command("status", f"--address={address}").stdout) < 2:
        expect(time.monotonic() < until, True)
    expect(shown(timed("status", "status", f"--address={address}", times=again)), 2)
    timed("stop", "stop")


if __name__ == "__main__":
    main()
