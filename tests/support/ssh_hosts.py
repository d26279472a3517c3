"""Hosts that are reached by ssh: namespaces with an own network, processes, home and /tmp.

The first one is the laptop from which clusters are brought up; the others take them. The scripts
beside this file make them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nbray.testing import wait_until

SCRIPT = Path(__file__).with_name("ssh_hosts.sh")
_NEEDED = ("ip", "nsenter", "unshare", "ssh", "ssh-keygen", "rsync", "flock", "/usr/sbin/sshd")


def why_not() -> str:
    """Why such hosts cannot be made here; empty if they can."""
    if os.getuid():
        return "hosts in namespaces need root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"hosts in namespaces need {', '.join(missing)}"
    name = f"nbprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this root may not make network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    spaces = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "true"]
    if subprocess.run(spaces, capture_output=True).returncode:
        return "this root may not make namespaces of mounts and processes"
    return ""


class Hosts:
    """So many hosts; number 0 is the laptop, and host N has the address 10.77.7.(10 + N)."""

    def __init__(
        self, base: Path, prefix: str, count: int, *, shared_home: bool = False, path: str = ""
    ) -> None:
        self.base = base
        self.prefix = prefix
        self.count = count
        self.shared_home = shared_home
        places = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
        hidden = sorted(place for place in places if place.startswith(("/root/", "/tmp/")))
        self.env = os.environ | {
            "BASE": str(base), "HOST_PATH": path + str(Path(sys.executable).parent),
            "HOST_SEES": " ".join(hidden), "NETNS_NET": "10.77.7",
            "SHARED_HOME": "1" if shared_home else "",
        }  # fmt: skip
        self.env.pop("NBRAY_TMPDIR", None)

    def script(self, *words: str) -> None:
        subprocess.run(
            [str(SCRIPT), *words], env=self.env, check=True, timeout=60,
            stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip

    def command(self, number: int, *words: str) -> list[str]:
        return [str(SCRIPT), "run", self.prefix, str(number), *words]

    def run(
        self, number: int, *words: str, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a host."""
        return subprocess.run(
            self.command(number, *words), env=self.env, capture_output=True, text=True,
            timeout=timeout, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, number: int, *words: str) -> subprocess.Popen[str]:
        """Start one there."""
        return subprocess.Popen(
            self.command(number, *words), env=self.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def home(self, number: int) -> Path:
        """The home of root on a host, from outside."""
        return self.base / f"{self.prefix}{number}" / "root"

    def tmp(self, number: int) -> Path:
        """Its /tmp."""
        return self.base / f"{self.prefix}{number}" / "tmp"

    def answers(self, number: int) -> bool:
        address = f"10.77.7.{10 + number}"
        return not self.run(0, "ssh", "-o", "BatchMode=yes", address, "true").returncode

    def power_off(self, number: int) -> None:
        """SIGKILL to all its processes at once; its disk stays."""
        self.script("off", self.prefix, str(number))

    def boot(self, number: int) -> None:
        self.script("boot", self.prefix, str(number))
        wait_until(lambda: self.answers(number), f"host {number} to answer")

    def processes(self, number: int) -> list[str]:
        """The command lines of nbray's processes there."""
        listed = self.run(number, "ps", "-eo", "pid,args", "-ww").stdout.splitlines()
        return [line for line in listed if " -m nbray." in line]


@contextmanager
def ssh_hosts(count: int, *, shared_home: bool = False, path: str = "") -> Iterator[Hosts]:
    """Make them, and remove them with all that runs there.

    Args:
        count: how many.
        shared_home: all have one home.
        path: comes first in their PATH, ended by a colon.
    """
    base = Path(tempfile.mkdtemp(prefix="nbh"))
    prefix = f"nh{os.getpid() % 100_000}{'s' if shared_home else 'x'}"
    hosts = Hosts(base, prefix, count, shared_home=shared_home, path=path)
    try:
        hosts.script("up", hosts.prefix, str(count))
        for number in range(count):
            wait_until(lambda number=number: hosts.answers(number), f"host {number} to answer")
        yield hosts
    finally:
        hosts.script("down", hosts.prefix)
        shutil.rmtree(base, ignore_errors=True)
