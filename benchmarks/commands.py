"""The engines' commands: a head node, a second node, and their end, timed.

``ray stop`` sends SIGTERM to every process of the machine whose command line holds one of some
keywords ("monitor.py" is one), whoever started it. So Ray's commands run in a PID namespace of
their own, where they see no other process, and never outside of one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata

from benchmarks import engines


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
        port = random.randrange(20_000, 30_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue  # it is taken


def main() -> None:
    """Time the commands of one engine."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", required=True)
    parser.add_argument("--output-fd", type=int, required=True)
    parser.add_argument("--outside", required=True, help="the PID namespace of the caller")
    args = parser.parse_args()
    engine = engines.BY_NAME[args.engine]()
    output = os.fdopen(args.output_fd, "w", buffering=1)
    if engine.stops_others and not is_secluded(args.outside):
        output.write(json.dumps({"problem": "not in a PID namespace of its own"}) + "\n")
        return
    versions = {"version": metadata.version(engine.name), "python": platform.python_version()}
    output.write(json.dumps(versions) + "\n")
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    rows = {
        "start --head": ("start", "--head", "--node-ip-address=127.0.0.1", f"--port={port}"),
        "second node": ("start", f"--address={address}"),
        "stop": ("stop",),
    }
    try:
        for row, arguments in rows.items():
            begun = time.perf_counter()
            engine.command(*arguments)
            seconds = time.perf_counter() - begun
            output.write(json.dumps({"row": row, "samples": [seconds]}) + "\n")
    except subprocess.CalledProcessError as error:
        said = f"{error}\n{(error.stdout + error.stderr)[-2000:]}"
        output.write(json.dumps({"problem": said}) + "\n")
        engine.command("stop")


if __name__ == "__main__":
    main()
