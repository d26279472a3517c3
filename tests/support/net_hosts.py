"""Hosts with addresses and links of their own, and nodes of nbray on them.

The links have weather (`support.weather`): delay, jitter, loss, a rate, and cuts one way or both.
The hosts share this machine's processes and files, so that a test signals and reads what runs
there; each has a home and a folder of sessions of its own. The machine itself is in none of their
networks: what talks to them runs on one of them.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil

from nbray.testing import processes_of
from support.weather import CLEAR, Weather, address

__all__ = ["CLEAR", "Network", "Weather", "net_hosts", "why_no_networks"]

_PROGRAM = Path(__file__).with_name("weather.py")
_BIN = Path(sys.executable).parent
_numbers = itertools.count()


def why_no_networks() -> str:
    """Why such hosts cannot be made here; empty if they can."""
    if os.getuid():
        return "hosts in namespaces need root"
    if shutil.which("ip") is None:
        return "hosts in namespaces need iproute2"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "links with weather need /dev/net/tun"
    name = f"nbprobe{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "this root may not make network namespaces"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Host:
    """One of them.

    Attributes:
        address: where the others reach it.
        root: its folder of sessions (``NBRAY_TMPDIR``).
    """

    def __init__(self, namespace: str, number: int, base: Path) -> None:
        self.number = number
        self.address = address(number)
        self.home = base / str(number) / "home"
        self.root = base / str(number) / "t"
        for folder in (self.home, self.root):
            folder.mkdir(parents=True)
            folder.chmod(0o700)
        self._namespace = namespace
        self.env = os.environ | {
            "HOME": str(self.home), "NBRAY_TMPDIR": str(self.root),
            "PATH": f"{_BIN}:{os.environ['PATH']}",
        }  # fmt: skip
        for of_another in ("NBRAY_ADDRESS", "NBRAY_AUTH_TOKEN"):
            self.env.pop(of_another, None)

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command there; its output is one stream of text."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._namespace, *words], env=self.env, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            cwd=self.home,
        )  # fmt: skip

    def run(self, *words: str, timeout: float = 60.0) -> str:
        """Run a command there.

        Returns:
            what it printed.

        Raises:
            AssertionError: it failed; with what it printed. subprocess.TimeoutExpired: it was too
                slow, and is ended.
        """
        process = self.start(*words)
        try:
            text, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        assert process.returncode == 0, f"{' '.join(words)} on host {self.number}:\n{text}"
        return text

    def start_python(self, program: str, *words: str) -> subprocess.Popen[str]:
        """Start a program there, given as its text."""
        return self.start(sys.executable, "-u", "-c", program, *words)

    def run_python(self, program: str, *words: str, timeout: float = 60.0) -> str:
        """Run it, as `run` does."""
        return self.run(sys.executable, "-c", program, *words, timeout=timeout)

    def processes(self, part: str = "") -> list[psutil.Process]:
        """Its processes of a part of nbray: "nbray.raylet", "nbray.gcs"; all by default."""
        found = processes_of(self.root)
        return [process for process in found if not part or part in process.info["cmdline"]]

    def received(self) -> int:
        """Bytes that have come to it from others."""
        lines = self.run("cat", "/proc/net/dev").splitlines()
        (counts,) = [line.split(":")[1] for line in lines if line.strip().startswith("eth0:")]
        return int(counts.split()[0])

    def raylet(self) -> psutil.Process:
        """That of the node that was started there."""
        (found,) = self.processes("nbray.raylet")
        return found


class Network:
    """So many hosts, and the weather between them."""

    def __init__(self, base: Path, prefix: str, count: int) -> None:
        self.hosts = [Host(f"{prefix}{number}", number, base) for number in range(count)]
        self._switch = subprocess.Popen(
            [sys.executable, str(_PROGRAM), prefix, str(count)], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self._hear("ready")

    def _hear(self, word: str) -> None:
        assert self._switch.stdout is not None
        assert self._switch.stderr is not None
        if self._switch.stdout.readline().strip() != word:
            raise AssertionError(f"the switch failed:\n{self._switch.stderr.read()}")

    def set(self, weather: Weather, source: int | None = None, target: int | None = None) -> None:
        """The weather from one host to another, in that direction; all of them by default."""
        everyone = [host.number for host in self.hosts]
        sources = everyone if source is None else [source]
        targets = everyone if target is None else [target]
        assert self._switch.stdin is not None
        self._switch.stdin.write(json.dumps([sources, targets, asdict(weather)]) + "\n")
        self._switch.stdin.flush()
        self._hear("changed")

    def cut(self, number: int, other: int | None = None) -> None:
        """Drop all between a host and another, or and all others, both ways, without a word."""
        self.set(Weather(cut=True), number, other)
        self.set(Weather(cut=True), other, number)

    def mend(self, number: int, other: int | None = None) -> None:
        """The link is as good as new, both ways."""
        self.set(CLEAR, number, other)
        self.set(CLEAR, other, number)

    def start_nodes(self, *options: str, cpus: int = 1) -> None:
        """A head node on host 0, and a node that joins it on each other host.

        Args:
            options: of `nbray start`, for each of them.
            cpus: of each.
        """
        head, *others = self.hosts
        common = ["--num-cpus", str(cpus), *options]
        head.run(
            "nbray", "start", "--head", "--node-ip-address", head.address,
            "--include-dashboard", "false", *common,
        )  # fmt: skip
        for host in others:
            self.join(host, *common)

    def join(self, host: Host, *options: str) -> None:
        """Start a node on a host, of the cluster whose head is on host 0."""
        self.give_token(host)
        host.run("nbray", "start", "--address", f"{self.hosts[0].address}:6379", *options)

    def give_token(self, host: Host) -> None:
        """Have a host know the token of the cluster whose head is on host 0."""
        token = host.home / ".nbray" / "auth_token"
        token.parent.mkdir(mode=0o700, exist_ok=True)
        shutil.copy(self.hosts[0].home / ".nbray" / "auth_token", token)

    def close(self) -> None:
        """End all that runs on the hosts, and the hosts."""
        for host in self.hosts:
            for process in host.processes():
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue
        assert self._switch.stdin is not None
        self._switch.stdin.close()
        try:
            self._switch.wait(20)
        except subprocess.TimeoutExpired:
            self._switch.kill()
            self._switch.wait()
            raise


@contextmanager
def net_hosts(count: int) -> Iterator[Network]:
    """Make hosts, and remove them with all that runs there.

    Args:
        count: how many; they are numbered from 0.
    """
    base = Path(tempfile.mkdtemp(prefix="nbw"))
    network = Network(base, f"nw{os.getpid() % 100_000}x{next(_numbers)}x", count)
    try:
        yield network
    finally:
        network.close()
        shutil.rmtree(base, ignore_errors=True)
