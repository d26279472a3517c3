"""Whatever is killed, in whatever state a job is: no job is lost, and none runs twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

import nbray
from nbray.cluster_utils import Cluster
from nbray.job_submission import JobDetails, JobSubmissionClient
from nbray.testing import own_sessions, wait_until
from nbray.util.state import list_actors

pytestmark = [pytest.mark.slow, pytest.mark.alone]

_RUN = "echo began >> {marks}; until [ -e {go} ]; do sleep 0.1; done; echo ended >> {marks}"
"""Goes on while it is killed, however late."""
_STUBBORN = "trap '' TERM; echo began >> {marks}; sleep 60 & wait; sleep 60"


class Place:
    """A head node and one more, which alone has ``gate``, for one job after the other."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.folder = folder
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True}
        )
        nbray.init(address=self.cluster.address, namespace="t", log_to_driver=False)
        self.far = self._far()  # not before: this driver is the head's
        self.client = JobSubmissionClient(self.cluster.address)
        self._count = 0

    def _far(self) -> Any:
        return self.cluster.add_node(num_cpus=1, resources={"gate": 1})

    def new_name(self) -> str:
        self._count += 1
        return f"job{self._count}"

    def marks(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().split() if path.exists() else []

    def go(self, name: str) -> Path:
        """With this file a job comes to its end."""
        return self.folder / f"{name}.go"

    def submit(self, name: str, script: str) -> None:
        self.client.submit_job(
            entrypoint=script.format(marks=self.folder / name, go=self.go(name)),
            submission_id=name,
            entrypoint_resources={"gate": 1},
        )  # fmt: skip

    def info(self, name: str) -> JobDetails:
        return self.client.get_job_info(name)

    def processes(self, module: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or ()
            if module in command and any(str(self.root) in word for word in command):
                found.append(process)
        return found

    def kill(self, victim: str, name: str) -> None:
        if victim == "supervisor":
            rows = [row for row in list_actors() if row.name.endswith(f"supervisor_{name}")]
            for row in rows:
                with suppress(ProcessLookupError):  # of a job that has ended, it may have gone
                    if row.pid:
                        os.kill(row.pid, signal.SIGKILL)
            return
        if victim == "node":
            self.cluster.remove_node(self.far, allow_graceful=False)
            return
        for process in self.processes(victim):
            process.kill()

    def mend(self, victim: str) -> None:
        if victim == "node":
            self.far = self._far()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as patch, own_sessions() as root:
        folder = tmp_path_factory.mktemp("marks")
        patch.setenv("HOME", str(folder))
        place = Place(root, folder)
        yield place
        nbray.shutdown()
        place.cluster.shutdown()


@nbray.remote(resources={"gate": 1}, num_cpus=0)
class Holder:
    def here(self) -> bool:
        return True


def _held() -> Any:
    holder = Holder.remote()
    try:
        assert nbray.get(holder.here.remote(), timeout=30)
    except nbray.exceptions.GetTimeoutError:
        rows = [(row.name, row.state, row.pending_reason) for row in list_actors()]
        raise AssertionError(f"nobody gives the gate back: {rows}") from None
    return holder


def _wait_for(place: Place, name: str, *states: str) -> JobDetails:
    wait_until(lambda: place.info(name).status in states, f"{name} to be {states}", timeout=60)
    return place.info(name)


@pytest.mark.parametrize(
    "victim", ["nbray.dashboard", "nbray.jobs", "nbray.gcs", "supervisor", "node"]
)
@pytest.mark.parametrize("state", ["submitted", "pending", "running", "stopping", "ended"])
def test_a_kill_loses_no_job_and_runs_none_twice(place: Place, victim: str, state: str) -> None:
    name = place.new_name()
    holder = _held() if state == "pending" else None
    place.submit(name, _STUBBORN if state == "stopping" else _RUN)
    if state == "pending":
        time.sleep(0.5)  # its supervisor is being placed
    if state in ("running", "stopping"):
        wait_until(lambda: bool(place.marks(name)), "it to begin", timeout=60)
    if state == "stopping":
        place.client.stop_job(name)
    if state == "ended":
        place.go(name).touch()
        _wait_for(place, name, "SUCCEEDED")
    place.kill(victim, name)
    if holder is not None:
        nbray.kill(holder)
    place.mend(victim)
    place.go(name).touch()
    ended = _wait_for(place, name, "SUCCEEDED", "FAILED", "STOPPED")
    lost = victim in ("supervisor", "node") and state not in ("pending", "submitted", "ended")
    if state == "stopping":
        assert ended.status == "STOPPED"
    elif lost:
        assert ended.status == "FAILED", ended
        assert ended.error_type == "JOB_SUPERVISOR_ACTOR_DIED"
    elif victim in ("supervisor", "node") and state == "submitted":
        assert ended.status in ("SUCCEEDED", "FAILED"), "it may have begun"
    else:
        assert ended.status == "SUCCEEDED", ended
    assert place.marks(name).count("began") <= 1
    if ended.status == "SUCCEEDED":
        assert place.marks(name) == ["began", "ended"]
    time.sleep(0.1)
    assert place.info(name).status == ended.status
