"""`nbray up` with a file whose workers are jobs of a real Slurm; the head is on this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import PROGRAM
from support.slurm import ODD_PARTITION, Slurm

from nbray.testing import own_sessions, processes_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SMALL = {"CPU": 2, "object_store_memory": 80 << 20}
ONE = {"job": {"resources": SMALL, "min_workers": 1, "max_workers": 3}}
WHERE = """
import nbray, os, sys, time
from nbray.experimental import internal_kv as kv
nbray.init()
@nbray.remote(num_cpus=2)
def where(least):  # until so many run at once, however late a node comes
    me, met = nbray.get_runtime_context().get_task_id(), nbray.get_runtime_context().get_job_id()
    kv._internal_kv_put(me, b"", namespace=met)
    deadline = time.monotonic() + 100
    # Nothing is got meanwhile: that would lend the CPUs to the next one.
    while len(kv._internal_kv_list("", namespace=met)) < least:
        assert time.monotonic() < deadline, "no other node came"
        time.sleep(0.2)
    return os.environ.get("SLURMD_NODENAME")
count = int(sys.argv[1])
names = nbray.get([where.remote(min(count, 2)) for _ in range(count)], timeout=120)
print("ran on", *sorted(set(names)), "secret" if "NBRAY_AUTH_TOKEN" in os.environ else "")
"""


class LoginNode:
    """Where the file is, and the command; its home is that of the jobs."""

    def __init__(self, slurm: Slurm, home: Path, sessions: Path) -> None:
        self.slurm, self.home, self.sessions = slurm, home, sessions
        self.given: dict[str, Any] = {
            "cluster_name": "of-jobs",
            "provider": {"type": "slurm", "walltime": "20"},
            "tls": True,
            "idle_timeout_minutes": 0.05,
            "upscaling_speed": 10,
            "available_node_types": {
                "job": {"resources": SMALL, "min_workers": 0, "max_workers": 2},
            },
            "head_start_ray_commands": [
                "nbray start --head --port=0 --num-cpus=0 --include-dashboard=0 "
                "--object-store-memory=100MB",
            ],
        }  # fmt: skip
        path = slurm.variables["PATH"]
        (home / ".bashrc").write_text(
            f"export PATH={path} SLURM_CONF={slurm.variables['SLURM_CONF']}\n"
        )
        self.env = os.environ | slurm.variables | {
            "HOME": str(home), "NBRAY_AUTOSCALER_UPDATE_INTERVAL_S": "0.5",
            "NBRAY_AUTH_TOKEN": "z" * 64,
        }  # fmt: skip
        self.write()

    def write(self, **changed: Any) -> None:
        self.given |= changed
        (self.home / "cluster.yaml").write_text(yaml.safe_dump(self.given))

    def run(self, verb: str, *args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, verb, "cluster.yaml", *args], env=self.env, text=True,
            capture_output=True, timeout=200, cwd=self.home, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def nbray(self, verb: str, *args: str) -> str:
        done = self.run(verb, *args)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def jobs(self) -> list[str]:
        return [line for line in self.slurm.jobs() if "nbray:of-jobs:" in line]

    def heads(self) -> list[int]:
        return [p.pid for p in processes_of(self.sessions) if "nbray.gcs" in p.info["cmdline"]]


@pytest.fixture(scope="module")
def login(slurm: Slurm) -> Iterator[LoginNode]:
    home = Path(tempfile.mkdtemp(prefix="nblogin"))
    with own_sessions() as sessions:
        one = LoginNode(slurm, home, sessions)
        (home / "where.py").write_text(WHERE)
        yield one
        ended = one.run("down", "-y")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        wait_until(lambda: not processes_of(sessions), "the end of all nodes", 60)
    shutil.rmtree(home)


def test_a_file_is_a_head_and_jobs_that_come_with_the_work(login: LoginNode) -> None:
    shown = login.nbray("up", "-y")
    assert "started" in shown and not login.jobs()
    before = login.heads()
    assert len(before) == 1
    again = login.nbray("up", "-y")
    assert "runs" in again and "started" not in again and login.heads() == before
    assert "nothing to do" in login.nbray("up", "--dry-run")
    assert "ran on sn1 sn2 \n" in login.nbray("submit", "where.py", "2")
    assert "of-jobs: job 0 to 2" in login.nbray("exec", "nbray status")
    assert list(login.sessions.glob("s*/tls/own.pem"))
    assert login.nbray("get-head-ip").strip() not in ("", "127.0.0.1")


def test_commands_and_files_go_to_the_head(login: LoginNode) -> None:
    login.nbray("up", "-y")
    assert login.run("exec", "echo $NBRAY_ADDRESS; exit 7").returncode == 7
    assert f"on {socket.gethostname()}" in login.nbray("exec", "echo on $(hostname)")
    (login.home / "data").mkdir()
    (login.home / "data" / "a b").write_text("1")
    login.nbray("rsync-up", "data", "~/there")
    login.nbray("rsync-down", "~/there/", "back")
    assert (login.home / "back" / "data" / "a b").read_text() == "1"
    typed = subprocess.run(
        ["script", "-qec", f'{sys.executable} -c "{PROGRAM}" attach cluster.yaml', "/dev/null"],
        input="echo in $NBRAY_ADDRESS; exit 5\n", env=login.env, cwd=login.home, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    address = login.nbray("exec", "echo $NBRAY_ADDRESS").strip().splitlines()[-1]
    assert f"in {address}" in typed.stdout and typed.returncode == 5, typed.stdout
    secrets = subprocess.run(["ps", "-eo", "args", "-ww"], capture_output=True, text=True).stdout
    token = next(login.home.glob(".nbray/clusters/of-jobs/*/token")).read_text().strip()
    assert token not in secrets and len(token) == 64


def test_a_changed_file_reaches_the_autoscaler_of_the_head_that_runs(login: LoginNode) -> None:
    login.nbray("up", "-y")
    before = login.heads()
    login.write(available_node_types=ONE)
    assert "tell its autoscaler" in login.nbray("up", "--dry-run")
    login.nbray("up", "-y")
    assert login.heads() == before
    wait_until(lambda: len(login.jobs()) == 1, "the job of min_workers")
    assert "of-jobs: job 1 to 3" in login.nbray("exec", "nbray status")
    wait_until(lambda: len(login.nbray("get-worker-ips").split()) == 1, "its node", 60)


def test_workers_go_alone_and_none_comes_until_the_next_up(login: LoginNode) -> None:
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    before = login.heads()
    assert "ran on sn" in login.nbray("submit", "where.py", "2")
    login.nbray("down", "-y", "--keep-min-workers")
    wait_until(lambda: len(login.jobs()) == 1, "the jobs beyond min_workers to end")
    assert "no worker is left" in login.nbray("down", "-y", "--workers-only")
    wait_until(lambda: not login.jobs(), "the end of all jobs")
    assert login.heads() == before
    assert "of-jobs: job 0 to 0" in login.nbray("exec", "nbray status")
    login.nbray("up", "-y")
    wait_until(lambda: len(login.jobs()) == 1, "the job of min_workers")
    assert login.heads() == before


def test_a_controller_that_stands_still_holds_up_what_is_new_and_nothing_else(
    login: LoginNode,
) -> None:
    login.write(provider=login.given["provider"] | {"partition": ODD_PARTITION})
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    wait_until(lambda: len(login.nbray("get-worker-ips").split()) == 1, "a node", 60)
    controller = login.slurm.controller()
    controller.suspend()
    try:
        assert "ran on sn" in login.nbray("submit", "where.py", "1")
        with ThreadPoolExecutor(1) as thread:
            working = thread.submit(login.nbray, "submit", "where.py", "9")
            time.sleep(12)
            assert not working.done()
            controller.resume()
            wait_until(lambda: len(login.jobs()) >= 2, "a job that was held up", 60)
            assert "ran on sn" in working.result()
    finally:
        controller.resume()
    assert len(login.jobs()) <= 3
    listed = login.slurm.run("squeue", "-h", "-o", "%i %P").stdout.splitlines()
    partitions = dict(line.split() for line in listed)
    # One that ran before the file was changed goes on where it is.
    assert ODD_PARTITION in {partitions.get(job.split()[0]) for job in login.jobs()}


def test_what_slurm_refuses_is_said_in_its_words_and_mended_in_the_file(login: LoginNode) -> None:
    good = login.given["provider"]
    login.write(provider=good | {"partition": "there is; no 'such'"})
    login.write(available_node_types={"job": ONE["job"] | {"min_workers": 2}})
    login.nbray("up", "-y")
    login.nbray("down", "-y", "--workers-only")
    login.write(idle_timeout_minutes=0.06)
    login.nbray("up", "-y")
    wait_until(
        lambda: "invalid partition specified" in login.nbray("exec", "nbray status -v"),
        "Slurm's words", 60,
    )  # fmt: skip
    login.write(provider=good)
    login.nbray("up", "-y")
    wait_until(lambda: len(login.jobs()) == 2, "jobs", 90)


def test_a_second_head_of_the_name_is_refused_on_the_same_machine(login: LoginNode) -> None:
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    words = ["start", "--head", "--port=0", "--num-cpus=0", "--include-dashboard=0",
             "--object-store-memory=80MB", "--autoscaling-config=cluster.yaml"]  # fmt: skip
    second = [sys.executable, "-c", PROGRAM]
    started = subprocess.run(
        [*second, *words], env=login.env, text=True, capture_output=True, timeout=60,
        cwd=login.home,
    )  # fmt: skip
    address = re.search(r"cluster (\S+)\.", started.stdout)
    assert address, started.stderr

    def said() -> str:
        return "".join(path.read_text() for path in login.sessions.glob("s*/logs/*.log"))

    try:
        wait_until(lambda: "another head of cluster of-jobs runs here" in said(), "the reason")
    finally:
        subprocess.run([*second, "stop", f"--address={address[1]}"], env=login.env, check=True)
    assert login.jobs()


def test_down_leaves_neither_jobs_nor_a_folder_and_up_begins_anew(login: LoginNode) -> None:
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    wait_until(lambda: len(login.jobs()) == 1, "a job", 60)
    login.nbray("down", "-y")
    assert not login.jobs() and not login.heads()
    assert not list(login.home.glob(".nbray/slurm/*"))
    assert not list(login.home.glob(".nbray/clusters/of-jobs/*/session"))
    assert "had no node" in login.nbray("down", "-y")


def test_a_head_that_was_killed_comes_back_with_its_session(login: LoginNode) -> None:
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    wait_until(lambda: len(login.jobs()) == 1, "a job")
    address = login.nbray("exec", "echo $NBRAY_ADDRESS").strip().splitlines()[-1]
    for process in processes_of(login.sessions):
        if "nbray:" not in str(process.info["cmdline"]):
            process.kill()
    assert "session is there" in login.nbray("up", "--dry-run")
    login.nbray("up", "-y")
    assert login.nbray("exec", "echo $NBRAY_ADDRESS").strip().splitlines()[-1] == address
    assert "ran on sn" in login.nbray("submit", "where.py", "1")


def test_a_cluster_has_one_head_where_homes_are_shared(login: LoginNode) -> None:
    login.write(available_node_types=ONE)
    login.nbray("up", "-y")
    record = next(login.home.glob(".nbray/clusters/of-jobs/*/session")).parent
    other = record.with_name("login2")
    record.rename(other)
    try:
        done = login.run("up", "-y")
        assert done.returncode and "head of cluster of-jobs is on login2" in done.stderr
        assert login.run("down", "-y").returncode
    finally:
        other.rename(record)
