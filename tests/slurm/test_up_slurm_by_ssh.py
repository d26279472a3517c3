"""`nbray up` on a laptop, with a login node of a real Slurm that is reached by real ssh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import ssh_hosts
from support.slurm import Slurm
from support.slurm import why_not as why_no_slurm
from support.ssh_hosts import Hosts
from test_up_slurm import SMALL, WHERE

from nbray.testing import wait_until

_REASON = ssh_hosts.why_not() or why_no_slurm()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),
]
LOGIN = "10.77.7.11"
FILE = {
    "cluster_name": "by-ssh",
    "provider": {"type": "slurm", "head_ip": LOGIN, "walltime": "20"},
    "auth": {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"},
    "idle_timeout_minutes": 0.05,
    "upscaling_speed": 10,
    "available_node_types": {"job": {"resources": SMALL, "min_workers": 0, "max_workers": 2}},
    "file_mounts": {"/tmp/from-the-laptop": "~/where.py"},
    "head_start_ray_commands": [
        "nbray start --head --port=0 --num-cpus=0 --include-dashboard=0 "
        "--object-store-memory=100MB",
    ],
}


class SlurmThere(Slurm):
    """A Slurm whose processes are those of a host, not of this machine."""

    def __init__(self, hosts: Hosts) -> None:
        base = hosts.tmp(1) / "slurm"
        base.mkdir()
        self._hosts = hosts
        super().__init__(base, 2, Path("/tmp/slurm"), f"{hosts.prefix}1")

    def command(self, *words: str) -> list[str]:
        """They run there."""
        there = self._hosts.command(1, "env", f"SLURM_CONF={self._conf}", *words)
        names = ("BASE", "HOST_PATH", "HOST_SEES", "NETNS_NET", "SHARED_HOME")
        return ["env", *(f"{name}={self._hosts.env[name]}" for name in names), *there]


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """A laptop, and a login node."""
    with ssh_hosts.ssh_hosts(2) as made:
        slurm = SlurmThere(made)
        slurm.up()
        with open(made.home(1) / ".bashrc", "a") as file:
            file.write(f"export SLURM_CONF={slurm.variables['SLURM_CONF']}\n")
        (made.home(0) / "cluster.yaml").write_text(yaml.safe_dump(FILE))
        (made.home(0) / "where.py").write_text(WHERE)
        made.slurm = slurm  # type: ignore[attr-defined]
        yield made


def nbray(hosts: Hosts, verb: str, *words: str) -> str:
    done = hosts.run(0, "nbray", verb, "cluster.yaml", *words, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_laptop_brings_a_cluster_of_jobs_up_and_down(hosts: Hosts) -> None:
    slurm: Slurm = hosts.slurm  # type: ignore[attr-defined]
    try:
        assert "started" in nbray(hosts, "up", "-y") and not slurm.jobs()
        assert "started" not in nbray(hosts, "up", "-y"), "it runs"
        assert "ran on sn1 sn2 \n" in nbray(hosts, "submit", "where.py", "2")
        assert (hosts.tmp(1) / "from-the-laptop").read_text() == WHERE
        assert "by-ssh: job 0 to 2" in nbray(hosts, "exec", "nbray status")
        assert nbray(hosts, "get-head-ip").strip() == LOGIN
        changed = {**FILE, "available_node_types": {
            "job": {"resources": SMALL, "min_workers": 1, "max_workers": 2}}}  # fmt: skip
        (hosts.home(0) / "cluster.yaml").write_text(yaml.safe_dump(changed))
        assert "what comes and goes has changed" in nbray(hosts, "up", "-y")
        wait_until(lambda: any("RUNNING" in job for job in slurm.jobs()), "a job", 60)
        assert "no worker is left" in nbray(hosts, "down", "-y", "--workers-only")
        assert any("-m nbray.gcs" in line for line in hosts.processes(1))
        nbray(hosts, "up", "-y")
        wait_until(slurm.jobs, "a job again", 60)
    finally:
        nbray(hosts, "down", "-y")
    assert not slurm.jobs()
    wait_until(lambda: not hosts.processes(1), "the end of what Slurm was told to end", 60)
    assert not hosts.processes(0) and not (hosts.home(1) / ".nbray/clusters/by-ssh").exists()
