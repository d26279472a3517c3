"""A laptop with a cluster's file, from which clusters of `ssh_hosts` are brought up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from nbray.testing import wait_until
from support.ssh_hosts import Hosts

HEAD, FIRST, SECOND = "10.77.7.11", "10.77.7.12", "10.77.7.13"
SMALL = "--num-cpus=1 --object-store-memory=100000000"


class Laptop:
    """Where the file is, and the command."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.file = hosts.home(0) / "cluster.yaml"
        self.given: dict[str, Any] = {
            "cluster_name": "c",
            "provider": {"type": "local", "head_ip": HEAD, "worker_ips": [FIRST, SECOND]},
            "auth": {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"},
            "head_start_ray_commands": [
                "ray stop",
                f"ulimit -c unlimited && ray start --head --port=6379 {SMALL} "
                "--include-dashboard=0 --autoscaling-config=~/ray_bootstrap_config.yaml",
            ],
            "worker_start_ray_commands": [
                "ray stop", f"ray start --address=$RAY_HEAD_IP:6379 {SMALL}",
            ],
        }  # fmt: skip

    def write(self, **changed: Any) -> None:
        self.given |= changed
        self.file.write_text(yaml.safe_dump(self.given))

    def nbray(self, verb: str, *args: str) -> subprocess.CompletedProcess[str]:
        return self.hosts.run(0, "nbray", verb, "cluster.yaml", *args, timeout=120)

    def up(self, *args: str, fails: bool = False) -> str:
        done = self.nbray("up", "-y", *args)
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    def program(self, text: str) -> str:
        (self.hosts.home(0) / "program.py").write_text(text)
        done = self.nbray("submit", "program.py")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def raylets(self) -> dict[int, str]:
        """The pid of each host's raylet."""
        found = {}
        for number in range(1, self.hosts.count):
            for line in self.hosts.processes(number):
                if " nbray.raylet " in line:
                    found[number] = line.split()[0]
        return found


@contextmanager
def laptop_of(hosts: Hosts) -> Iterator[Laptop]:
    """A laptop whose cluster ends with the test, and of which nothing is left on the hosts."""
    one = Laptop(hosts)
    one.write()
    yield one
    ended = one.nbray("down", "-y")
    text = 'for s in /tmp/nbray-ssh-0/*; do ssh -o ControlPath="$s" -O exit host; done'
    hosts.run(0, "sh", "-c", text)  # the next test begins without shared connections
    assert ended.returncode == 0, ended.stdout + ended.stderr
    for number in range(1, hosts.count):
        wait_until(lambda number=number: not hosts.processes(number), f"the end on {number}")
        assert not list(hosts.tmp(number).glob("nbray-*/*"))
        left = "clusters/*/10*" if hosts.shared_home else "clusters/*"  # or the laptop's own
        assert not list(hosts.home(number).glob(f".nbray/{left}"))
    shutil.rmtree(hosts.home(0) / ".nbray")
