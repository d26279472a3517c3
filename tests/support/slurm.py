"""A Slurm cluster on this machine: munge, slurmctld and some slurmd, without systemd.

The nodes are processes of this machine with two CPUs each; jobs share its home and its addresses.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from nbray.testing import wait_until
from support.ports import free_ports

ODD_PARTITION = "gpu-a100.long_1+x@y%j"
_NEEDED = ("sbatch", "squeue", "/usr/sbin/munged", "/usr/sbin/slurmctld", "/usr/sbin/slurmd")


def why_not() -> str:
    """Why there can be no Slurm here; empty if there can."""
    if os.getuid():
        return "a Slurm cluster needs root"
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    return f"a Slurm cluster needs {', '.join(missing)}" if missing else ""


class Slurm:
    """A running cluster; its nodes are sn1, sn2, ...

    Args:
        base: its folder.
        count: how many nodes.
        seen: where that folder is for its machine, if that is not this one.
        host: the name of its machine.
    """

    def __init__(self, base: Path, count: int, seen: Path | None = None, host: str = "") -> None:
        self.base = base
        self.count = count
        self._seen = seen or base
        self._host = host or socket.gethostname()
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(count + 1)
        self._conf = self._seen / "slurm.conf"
        self._write_configuration(ports)

    @property
    def variables(self) -> dict[str, str]:
        """What a program needs in its environment to use it."""
        here = str(Path(sys.executable).parent)
        return {"SLURM_CONF": str(self._conf), "PATH": f"{here}:{os.environ['PATH']}"}

    def run(
        self, *words: str, timeout: float = 150, check: bool = True, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command that uses it; ``more`` are variables."""
        try:
            done = subprocess.run(
                self.command(*words), env=os.environ | self.variables | more, capture_output=True,
                text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise AssertionError((words, error.stdout, error.stderr)) from error
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def command(self, *words: str) -> list[str]:
        """The words that run a command on its machine."""
        return list(words)

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start one."""
        return subprocess.Popen(
            words, env=os.environ | self.variables | more, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def jobs(self, *options: str) -> list[str]:
        """The jobs that have not ended, a line each: id, state, name."""
        listed = self.run("squeue", "-h", "-o", "%i %T %j", *options)
        return listed.stdout.splitlines()

    def start_node(self, number: int) -> None:
        """Start the slurmd of a node."""
        words = ["/usr/sbin/slurmd", "-D", "-N", f"sn{number}", "-f", str(self._conf)]
        self._daemon(f"sn{number}", *words)

    def kill_node(self, number: int) -> None:
        """SIGKILL a node: its slurmd and all that runs on it."""
        doomed = [psutil.Process(self._daemons.pop(f"sn{number}").pid)]
        jobs = set()
        for process in psutil.process_iter(["environ"]):
            has = process.info["environ"] or {}
            here = has.get("SLURM_CONF") == str(self._conf)
            if here and has.get("SLURMD_NODENAME") == f"sn{number}":
                doomed.append(process)
                jobs.add(has.get("SLURM_JOB_ID", ""))
        for process in psutil.process_iter(["cmdline"]):
            name = " ".join(process.info["cmdline"] or ())
            if any(name.startswith(f"slurmstepd: [{job}.") for job in jobs):
                doomed.append(process)
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def controller(self) -> psutil.Process:
        """Its slurmctld."""
        return psutil.Process(self._daemons["ctld"].pid)

    def up(self) -> None:
        munge = self._seen / "munge"
        self._daemon(
            "munge", "setpriv", "--reuid=munge", "--regid=munge", "--clear-groups",
            "/usr/sbin/munged", "--foreground", "--force", f"--key-file={munge}/key",
            f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )  # fmt: skip
        wait_until((self.base / "munge" / "socket").exists, "munge")
        self._daemon("ctld", "/usr/sbin/slurmctld", "-D", "-f", str(self._conf))
        for number in range(1, self.count + 1):
            self.start_node(number)
        wait_until(lambda: self.idle() == self.count, "idle nodes of Slurm", 60)

    def idle(self) -> int:
        """How many nodes have nothing to do."""
        listed = self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N", check=False)
        return len(set(listed.stdout.split()))

    def down(self) -> None:
        """End it, and all jobs."""
        for number in range(1, self.count + 1):
            if f"sn{number}" in self._daemons:
                self.kill_node(number)
        for process in self._daemons.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        """What a daemon has said."""
        return (self.base / f"{name}.log").read_text(errors="replace")

    def _daemon(self, name: str, *words: str) -> None:
        with open(self.base / f"{name}.log", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                self.command(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=os.environ | self.variables,
            )  # fmt: skip

    def _write_configuration(self, ports: list[int]) -> None:
        base, host = self._seen, self._host
        for folder in ("state", "spool", "munge"):
            (self.base / folder).mkdir()
        self.base.chmod(0o755)
        key = self.base / "munge" / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        for path in (self.base / "munge", key):
            shutil.chown(path, "munge", "munge")
        settings: Mapping[str, object] = {
            "ClusterName": "here", "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": ports[0], "AuthType": "auth/munge",
            "AuthInfo": f"socket={base}/munge/socket", "CredType": "cred/munge",
            "SlurmUser": "root", "SlurmdUser": "root", "StateSaveLocation": f"{base}/state",
            "SlurmdSpoolDir": f"{base}/spool/%n", "SlurmctldPidFile": f"{base}/ctld.pid",
            "SlurmdPidFile": f"{base}/%n.pid", "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none", "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none", "MpiDefault": "none",
            "ReturnToService": 2, "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core", "SlurmdTimeout": 10,
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0",
        }  # fmt: skip
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [
            f"NodeName=sn{number} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 "
            "RealMemory=4000 State=UNKNOWN"
            for number, port in enumerate(ports[1:], start=1)
        ]
        nodes = f"sn[1-{self.count}]"
        lines.append(f"PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP")
        lines.append(f"PartitionName={ODD_PARTITION} Nodes={nodes} MaxTime=INFINITE State=UP")
        (self.base / "slurm.conf").write_text("\n".join(lines) + "\n")
        (self.base / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")


@contextmanager
def slurm_cluster(count: int) -> Iterator[Slurm]:
    """Start a cluster of Slurm, and end it with all that runs in it."""
    base = Path(tempfile.mkdtemp(prefix="nbslurm"))
    slurm = Slurm(base, count)
    try:
        slurm.up()
        yield slurm
    finally:
        slurm.down()
        shutil.rmtree(base, ignore_errors=True)
