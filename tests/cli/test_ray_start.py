"""``nbray start`` under the options of ``ray start``, and programs that join what it started."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from support.commands import PROGRAM, command
from support.ports import free_ports

import nbray
from nbray.testing import processes_of, wait_until


@nbray.remote
def listens_on() -> int:
    from nbray.core_worker.current import find_core

    core = find_core()
    assert core is not None
    return core.address.port


def test_init_joins_a_head_that_blocks_and_no_programs_own_cluster(home: Path) -> None:
    nbray.init(num_cpus=1)
    own = nbray.get_runtime_context().gcs_address
    program = "import nbray; print(nbray.init().address_info['gcs_address'])"
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() != own
    nbray.shutdown()
    head = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "start", "--head", "--port=0", "--num-cpus=3", "--block"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        address = head.stdout.readline().rpartition("cluster ")[2].strip().rstrip(".")
        assert nbray.init().address_info["gcs_address"] == address
        assert nbray.cluster_resources()["CPU"] == 3
        nbray.shutdown()
        assert head.poll() is None
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(30)
        head.stdout.close()
    wait_until(lambda: not processes_of(home), "the end of all nodes")


def test_options_of_ray_start_are_applied_or_ignored(home: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("zone: b\nregion: north\n")
    raylet_port, object_port, worker_port, client_port = free_ports(4)
    try:
        started = command(
            "start", "--head", "--port=0", "--num-cpus=2", "--memory=1000000000",
            f"--labels-file={labels}", "--labels=zone=c",
            f"--node-manager-port={raylet_port}", f"--object-manager-port={object_port}",
            f"--min-worker-port={worker_port}", f"--max-worker-port={worker_port}",
            "--system-config={\"max_direct_call_object_size\": 4096, \"unknown\": 1}",
            "--disable-usage-stats", "--no-monitor", "--redis-password=x", "-v",
            f"--ray-client-server-port={client_port}",
            "--dashboard-agent-listen-port=0", "--include-log-monitor=true",
        )  # fmt: skip
        assert started.returncode == 0, started.stderr
        nbray.init()
        (node,) = nbray.nodes()
        assert node["Resources"]["memory"] == 1e9
        assert node["Labels"]["zone"] == "c" and node["Labels"]["region"] == "north"
        assert nbray.get(listens_on.remote(), timeout=30) == worker_port
        (raylet,) = (p for p in processes_of(home) if "nbray.raylet" in p.info["cmdline"])
        listening = {
            c.laddr.port for c in raylet.net_connections() if c.status == psutil.CONN_LISTEN
        }
        assert listening == {raylet_port, object_port, client_port}
        assert raylet.environ()["NBRAY_MAX_INLINE_BYTES"] == "4096"
    finally:
        nbray.shutdown()
        command("stop")


def test_options_that_cannot_be_are_one_line(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for args, why in (
            (["--min-worker-port=3000"], "ends of a range"),
            ([f"--object-manager-port={port}"], f"{port}"),
            ([f"--node-manager-port={port}"], f"port {port} of 127.0.0.1 is in use"),
            (["--system-config=[]"], "must be a dict"),
            (["--no-such-option"], "No such option"),
        ):
            failed = command("start", "--head", "--port=0", *args)
            assert failed.returncode and why in failed.stderr, failed.stderr
            assert "Traceback" not in failed.stderr
    assert not processes_of(home)


@nbray.remote
def runs_at() -> str:
    return nbray.util.get_node_ip_address()


@pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6")
def test_a_cluster_on_ipv6_addresses(home: Path) -> None:
    nodes = ("--num-cpus=1", "--object-store-memory=100000000")
    try:
        head = command(
            "start", "--head", "--port=0", "--node-ip-address=::1", "--include-dashboard=1",
            "--dashboard-host=::1", "--dashboard-port=0", *nodes,
        )  # fmt: skip
        assert head.returncode == 0, head.stderr
        address = head.stdout.partition("cluster ")[2].split()[0].rstrip(".")
        assert address.startswith("[::1]:")
        other = command("start", f"--address={address}", '--resources={"far": 1}', *nodes)
        assert other.returncode == 0, other.stderr
        nbray.init(address)
        assert nbray.get(runs_at.options(resources={"far": 1}).remote(), timeout=30) == "::1"
        large = nbray.put(bytes(5 << 20))
        size = nbray.remote(len).options(resources={"far": 1})
        assert nbray.get(size.remote(large), timeout=30) == 5 << 20
        assert "http://[::1]:" in command("dashboard", f"--address={address}").stdout
        bare = command("start", "--address=::1:6379")
        assert bare.returncode == 1 and "an IPv6 host has brackets" in bare.stderr
    finally:
        nbray.shutdown()
        command("stop", "--all")
