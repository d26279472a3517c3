"""The command, as a user types it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.commands import PROGRAM, command
from support.ports import refusing_port

import nbray
from nbray.cli.stop import stop
from nbray.exceptions import WorkerCrashedError
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import start_head
from nbray.testing import processes_of, wait_until
from nbray.util.state import list_demand, list_failures


def test_start_status_use_and_stop(home: Path) -> None:
    started = command("start", "--head", "--port=0", "--num-cpus=2")
    assert started.returncode == 0, started.stderr
    assert "nbray stop" in started.stdout
    try:
        assert "alive" in command("status").stdout
        nbray.init("auto")
        assert nbray.get(nbray.remote(lambda: 42).remote(), timeout=30) == 42
        nbray.shutdown()
    finally:
        stopped = command("stop")
    assert stopped.returncode == 0
    wait_until(lambda: not processes_of(home), "all processes to end")


def test_a_port_in_use_and_no_head_are_one_clear_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failed = command("start", "--head", f"--port={port}")
        assert failed.returncode == 1
        assert f"port {port} of 127.0.0.1 is in use" in failed.stderr
    with refusing_port() as port:
        failed = command("start", f"--address=127.0.0.1:{port}")
    assert failed.returncode == 1
    assert "No GCS answers" in failed.stderr
    assert not processes_of(home)


def test_status_tells_what_waits_and_why_and_what_failed(home: Path) -> None:
    nbray.init(num_cpus=2, object_store_memory=64 << 20)
    crashing = nbray.remote(max_retries=0)(lambda: os._exit(7)).remote()
    with pytest.raises(WorkerCrashedError):
        nbray.get(crashing, timeout=30)
    waiting = nbray.remote(os.getpid).options(num_cpus=64).remote()
    wait_until(lambda: bool(list_demand()) and bool(list_failures()), "both to be reported")
    shown = command("status", "-v").stdout
    assert "CPU 0 of 2" in shown
    assert "1 task of CPU 64" in shown
    assert "which lacks {'CPU': 62.0}" in shown
    assert "at node" in shown
    assert "ended with exit status 7" in shown
    events = command("list", "cluster-events").stdout
    assert "ended with exit status 7" in events and "ERROR" in events
    del waiting


def stopped(*args: str) -> Result:
    return CliRunner().invoke(stop, args)


def test_stop_ends_the_cluster_that_is_meant_and_asks_before_it_ends_several(home: Path) -> None:
    """Also a node under --block, and never what a program holds unless it is named."""
    options = ["--head", "--port=0", "--object-store-memory=50000000", "--include-dashboard=0"]
    blocking = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "start", "--block", *options],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wanted = NodeOptions({"CPU": 1}, object_store_memory=50 << 20)
        plain = start_head(wanted, fate_shared=False).gcs_address
        held = nbray.init("local", num_cpus=1, object_store_memory=50 << 20).address_info["address"]
        assert blocking.stdout is not None
        found = re.search(r"cluster (\S+)\.", blocking.stdout.readline())
        assert found is not None

        refused = stopped()
        assert refused.exit_code == 1 and "2 clusters run here:" in refused.output
        for address in (found[1], plain):
            assert f"\n  {address}: 1 node here, since " in refused.output
        assert "--address HOST:PORT, or all by --all" in refused.output
        nowhere = stopped("--address=127.0.0.1:1")
        assert nowhere.exit_code == 1 and "No cluster 127.0.0.1:1 has" in nowhere.output
        assert stopped(f"--address={plain}").exit_code == 0
        assert blocking.poll() is None

        last = stopped()
        assert last.exit_code == 0 and "Stopped 1 node(s)." in last.output
        assert f"Left alone: cluster {held}" in last.output
        assert blocking.wait(60) == 0, "it was asked to leave"
        assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=60) == 1
        assert stopped(f"--address={held}", "--force").exit_code == 0
    finally:
        blocking.kill()
        stopped("--all", "--force")
