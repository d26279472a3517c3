"""`nbray.autoscaler.sdk` on machines that are reached by ssh."""

from __future__ import annotations

import sys

import pytest
from support.ssh_hosts import ssh_hosts, why_not

_REASON = why_not()
pytestmark = [
    pytest.mark.skipif(bool(_REASON), reason=_REASON),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),
]
PROGRAM = """
from pathlib import Path
from nbray.autoscaler import sdk

start = "nbray start --num-cpus=1 --object-store-memory=100000000 "
mine = {
    "cluster_name": "by-program",
    "provider": {"type": "local", "head_ip": "10.77.7.11", "worker_ips": ["10.77.7.12"]},
    "auth": {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"},
    "head_start_ray_commands": [start + "--head --port=6379 --include-dashboard=0"],
    "worker_start_ray_commands": [start + "--address=$NBRAY_HEAD_IP:6379"],
}
assert sdk.create_or_update_cluster(mine) == mine
try:
    assert sdk.get_head_node_ip(mine) == "10.77.7.11"
    assert sdk.get_worker_node_ips(mine) == ["10.77.7.12"]
    status = sdk.run_on_cluster(mine, cmd="nbray status -v", with_output=True)
    assert "10.77.7.12" in status, status
    Path("there.txt").write_text("text")
    sdk.rsync(mine, source="there.txt", target="copied.txt", down=False)
    assert sdk.run_on_cluster(mine, cmd="cat copied.txt", with_output=True).strip() == "text"
    try:
        sdk.run_on_cluster(mine, cmd="echo trouble; exit 3")
    except RuntimeError as error:
        assert "exit code 3" in str(error) and "trouble" in str(error), error
    else:
        raise AssertionError("a command that fails is an error")
    sdk.teardown_cluster(mine, workers_only=True)
    sdk.run_on_cluster(mine, cmd="nbray status")  # the head goes on
finally:
    sdk.teardown_cluster(mine)
print("all is well")
"""


def test_a_program_brings_a_cluster_up_uses_it_and_ends_it() -> None:
    with ssh_hosts(3) as hosts:
        done = hosts.run(0, sys.executable, "-c", PROGRAM, timeout=250)
        assert "all is well" in done.stdout, done.stdout + done.stderr
        assert not any("nbray.raylet" in line for n in (1, 2) for line in hosts.processes(n))
