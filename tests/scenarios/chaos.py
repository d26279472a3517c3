"""Chaos: a workload whose every result is checked, while processes are killed, stopped and cut off.

``python tests/scenarios/chaos.py --seed 7 --seconds 60`` runs one; what is done, and when, follows
from the seed. What may be retried has to give the right result; what may not has to fail with the
exception that says why; nothing may hang; and in the end nothing may be left: no process, no file,
no object, no reference, no resource that is taken.

The recovery from a fault lasts until the first piece of work is done that began after it, or after
its end if the process was stopped for a while.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from chaos_faults import FarFaults, Fault, Faults, report
from chaos_workload import Workload
from support.far_driver import TOKEN, start_far_head

import nbray
from nbray.common.addresses import split
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import RunningNode, join
from nbray.testing import Proxy
from nbray.util.state import StateApiException, list_objects

MB = 1 << 20
NODES = 2


def wait_for(condition: Callable[[], Any], what: Callable[[], str], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout:.0f} s: {what()}"
        time.sleep(0.05)


def run(
    seed: int, seconds: float, least: int = 0, *, far: bool = False
) -> tuple[list[Fault], Counter[str]]:
    """One run on a cluster of three nodes; the faults and the work that were done.

    It lasts ``seconds``, and until there were ``least`` faults: a slow machine needs longer. The
    driver is on the head, or ``far``: on no machine of the cluster, and the tunnel has faults, too.

    Raises:
        AssertionError: a result was wrong, something hung, or something was left.
    """
    started = time.monotonic()
    story: list[str] = []

    def say(text: str) -> None:
        story.append(f"{time.monotonic() - started:7.2f} s  {text}")

    away = Away(num_cpus=2, object_store_memory=150 * MB, resources={"slot": 2}) if far else None
    if away is None:
        nbray.init(num_cpus=2, object_store_memory=150 * MB, resources={"slot": 2})
    head, info = find_session("auto")
    nodes: list[RunningNode] = []

    def start_node() -> RunningNode:
        return join(
            info["gcs_address"],
            NodeOptions({"CPU": 2, "slot": 2}, object_store_memory=80 * MB),
            token=head.token, fate_shared=True,
        )  # fmt: skip

    rng = random.Random(seed)
    try:
        nodes.extend(start_node() for _ in range(NODES))
        around = (say, nodes, start_node, (psutil.Process(info["pids"][1]).pid,), head)
        chance = random.Random(rng.random())
        faults = (
            Faults(chance, *around)
            if away is None
            else FarFaults(chance, *around, path=away.path, head_node=away.head)
        )
        work = Workload(random.Random(rng.random()), say, faults=faults.done)
        try:
            faults.thread.start()
            while faults.failed is None and (
                time.monotonic() - started < seconds or len(faults.done) < least
            ):
                work.step()
        finally:
            faults.finish()
        work.finish()
        gc.collect()
        wait_for(lambda: _settled(faults), _what_is_taken)
    except BaseException as error:
        tail = "\n".join(story[-40:])
        raise AssertionError(f"seed {seed} failed: {error!r}\nIts story:\n{tail}") from error
    finally:
        for node in nodes:
            node.stop()
        nbray.shutdown()
        if away is not None:
            away.end()
    root = Path(os.environ["NBRAY_TMPDIR"])
    wait_for(lambda: not _leftovers(root), lambda: f"left over: {_leftovers(root)}")
    return faults.done, work.done


class Away:
    """A head node that this process has joined from afar, by a path that may be cut."""

    def __init__(self, **options: Any) -> None:
        os.environ["NBRAY_AUTH_TOKEN"] = TOKEN
        self.head = start_far_head(**options)
        self.path = Proxy(split(self.head.client_server))
        self.path.__enter__()
        nbray.init(f"nbray://{self.path.place[0]}:{self.path.place[1]}")

    def end(self) -> None:
        """End the head node."""
        self.path.__exit__(None, None, None)
        self.head.stop()
        del os.environ["NBRAY_AUTH_TOKEN"]


def _leftovers(root: Path) -> list[str]:
    """The files and processes of clusters below ``root``."""
    found = [str(path) for path in root.iterdir()] if root.exists() else []
    for process in psutil.process_iter(["cmdline", "status"]):
        if process.info["status"] != psutil.STATUS_ZOMBIE:
            line = " ".join(process.info["cmdline"] or ())
            if str(root) in line:
                found.append(f"{process.pid}: {line}")
    return found


def _settled(faults: Faults) -> bool:
    faults.replace_dead_nodes()
    return not _what_is_taken()


def _what_is_taken() -> str:
    rows = [row for row in nbray.nodes() if row["Alive"]]
    left = []
    total, available = nbray.cluster_resources(), nbray.available_resources()
    if total != available:
        left.append(f"resources: {available} of {total}")
    # A GCS that has just come back knows no loads yet.
    objects = sum(row["Stats"].get("objects", 1) for row in rows)
    if objects:
        left.append(f"{objects:.0f} objects in the stores")
    try:
        for row in list_objects(limit=5):
            who = f"pid {row.pid} ({row.call_site})"
            left.append(f"{row.object_id} is {row.reference_type} in {who}")
    except StateApiException as error:
        left.append(str(error))  # a node has died and is still listed
    if len(rows) != NODES + 1:
        left.append(f"{len(rows)} nodes are alive")
    return "; ".join(left)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--far", action="store_true", help="with a driver from afar")
    args = parser.parse_args()
    all_faults: list[Fault] = []
    all_work: Counter[str] = Counter()
    for number in range(args.runs):
        with tempfile.TemporaryDirectory(prefix="nbt") as folder:
            os.environ["NBRAY_TMPDIR"] = str(Path(folder) / "sessions")
            print(f"seed {args.seed + number}", flush=True)
            faults, work = run(args.seed + number, args.seconds, far=args.far)
            all_faults += faults
            all_work += work
    print(report(all_faults))
    print("work:", dict(all_work))


if __name__ == "__main__":
    main()
