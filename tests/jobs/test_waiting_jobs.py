"""Jobs that wait for resources, or whose environment takes long: others begin meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import nbray
from nbray.job_submission import JobSubmissionClient
from nbray.testing import own_sessions, wait_until
from nbray.util.state import list_actors

_GPU = {"entrypoint_num_gpus": 1}


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with own_sessions() as root:
        yield root
        nbray.shutdown()


@pytest.fixture(scope="module")
def client(root: Path) -> JobSubmissionClient:
    context = nbray.init("local", num_cpus=2, include_dashboard=True, dashboard_port=0)
    return JobSubmissionClient(context["gcs_address"])


def _waiting(name: str) -> bool:
    return any(
        row.name.endswith(f"supervisor_{name}") and row.state != "DEAD" for row in list_actors()
    )


def _ends(client: JobSubmissionClient, name: str) -> None:
    wait_until(lambda: client.get_job_status(name).is_terminal(), f"{name} to end", 30)
    assert client.get_job_status(name) == "SUCCEEDED"


@contextmanager
def _manager_stands_still(root: Path) -> Iterator[None]:
    (manager,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if "nbray.jobs" in (process.info["cmdline"] or ()) and str(root) in str(process.cmdline())
    )
    os.kill(manager.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(manager.pid, signal.SIGCONT)


def test_many_jobs_that_wait_for_resources_keep_no_other_from_running(
    client: JobSubmissionClient,
) -> None:
    names = [client.submit_job(entrypoint="true", **_GPU) for _ in range(40)]
    wait_until(lambda: all(map(_waiting, names)), "the supervisors of all to wait")
    _ends(client, client.submit_job(entrypoint="true"))
    _ends(client, client.submit_job(entrypoint="true", entrypoint_num_cpus=1))
    for name in names:
        assert client.stop_job(name)
    wait_until(lambda: not any(map(_waiting, names)), "none of them to wait any more")


def test_many_jobs_whose_environments_take_long_keep_no_other_from_running(
    client: JobSubmissionClient,
) -> None:
    names = [
        client.submit_job(entrypoint="true", runtime_env={"py_executable": f"sleep {300 + number}"})
        for number in range(20)
    ]
    _ends(client, client.submit_job(entrypoint="true"))
    for name in names:
        client.stop_job(name)
    wait_until(lambda: not any(map(_waiting, names)), "the end of all supervisors", 30)


def test_a_job_that_is_deleted_while_nobody_looks_waits_no_more(
    client: JobSubmissionClient, root: Path
) -> None:
    name = client.submit_job(entrypoint="true", **_GPU)
    wait_until(lambda: _waiting(name), "its supervisor to wait")
    with _manager_stands_still(root):
        client.submit_job(entrypoint="true")  # of which its question is answered
        assert client.stop_job(name) and client.delete_job(name)
    wait_until(lambda: not _waiting(name), "its supervisor to go")


def test_a_name_that_is_used_again_while_nobody_looks_is_that_of_the_new_job(
    client: JobSubmissionClient, root: Path
) -> None:
    client.submit_job(entrypoint="echo old", submission_id="again", **_GPU)
    wait_until(lambda: _waiting("again"), "its supervisor to wait")
    with _manager_stands_still(root):
        assert client.stop_job("again") and client.delete_job("again")
        client.submit_job(entrypoint="echo new", submission_id="again")
    _ends(client, "again")
    assert client.get_job_logs("again").endswith("\nnew\n")
