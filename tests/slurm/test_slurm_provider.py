"""Nodes that are jobs, by the autoscaler's provider and a real Slurm."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.slurm import Slurm

import nbray
from nbray.autoscaler.providers.base import (
    INSTANCE_LABEL,
    Cluster,
    Instance,
    NodeType,
    ProviderError,
    Stage,
    Wanted,
)
from nbray.autoscaler.providers.slurm import SlurmProvider
from nbray.launcher.found import running_sessions
from nbray.testing import processes_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

# Of a job's start, the start of a node, and its end: each is seconds of work, of a machine with
# Slurm's daemons and three nodes.
LONG_S = 150

T = TypeVar("T")

MB = 1 << 20
NUMBERS = itertools.count()


def wanted(*ids: str, node_config: Mapping[str, Any] | None = None) -> list[Wanted]:
    kind = NodeType(
        name="job", resources={"CPU": 2, "object_store_memory": 80 * MB}, max_workers=9,
        node_config=node_config or {},
    )  # fmt: skip
    return [Wanted(id=id, type=kind) for id in ids]


class Place:
    """A provider, used from outside of its loop."""

    def __init__(self, name: str, section: Mapping[str, Any], gone: Path | None = None) -> None:
        """``gone``: the folder of a head that has gone, in place of the one that runs."""
        session, info = next(running_sessions())
        kind = wanted("x")[0].type
        self.cluster = Cluster(
            name=name, address="127.0.0.1:1" if gone else info["gcs_address"],
            session=str(gone or session.path),
            token_file=str(session.path / "token"), types={"job": kind},
            document={"cluster_name": name, "provider": {"type": "slurm", **section}},
        )  # fmt: skip
        self.runner = asyncio.Runner()
        self.provider = SlurmProvider(self.cluster)

    def again(self) -> None:
        """Another process begins where this one ended."""
        self.provider = SlurmProvider(self.cluster)

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(what)

    def create(self, instances: Sequence[Wanted]) -> Mapping[str, str]:
        return self.run(self.provider.create(instances))

    def there(self) -> dict[str, Instance]:
        return {one.id: one for one in self.run(self.provider.list())}

    def wait(self, id: str, true: Callable[[Instance | None], Any], what: str) -> Instance | None:
        found: list[Instance | None] = []

        def is_true() -> Any:
            found[:] = [self.there().get(id)]
            return true(found[0])

        try:
            wait_until(is_true, what, LONG_S)
        except AssertionError:
            pytest.fail(f"no {what}: {self.there()}\n{self.run(self.provider.logs(id))}")
        return found[0]

    def says(self, id: str, text: str, what: str) -> None:
        """Wait until its log says something."""
        try:
            wait_until(lambda: text in self.run(self.provider.logs(id)), what, LONG_S)
        except AssertionError:
            pytest.fail(f"no {what}: {self.there()}\n{self.run(self.provider.logs(id))}")


@pytest.fixture
def place(
    slurm: Slurm, home: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Place]:
    """A head without CPUs in this process, and a provider for it."""
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    nbray.init(num_cpus=0, object_store_memory=100 * MB, include_dashboard=False)
    name = f"c{next(NUMBERS)}"  # Slurm lists for minutes what has ended
    found = Place(name, getattr(request, "param", {}))
    yield found
    found.run(found.provider.terminate(list(found.there())))
    nbray.shutdown()
    wait_until(lambda: not slurm.jobs(), "the end of all jobs", LONG_S)
    wait_until(lambda: not processes_of(home), "the end of all nodes", LONG_S)


def labels() -> list[str]:
    return sorted(node["Labels"].get(INSTANCE_LABEL, "") for node in nbray.nodes() if node["Alive"])


def test_jobs_become_nodes_and_go_again(slurm: Slurm, place: Place) -> None:
    assert place.create(wanted("i-1", "i-2")) == {}
    for id in ("i-1", "i-2"):
        found = place.wait(id, lambda one: one and one.stage is Stage.RUNNING, "a job")
        assert found is not None
        assert found.why.startswith(f"{found.place} is RUNNING on sn")
        assert found.ends is None
    wait_until(lambda: labels() == ["", "i-1", "i-2"], "both nodes", LONG_S)
    assert nbray.get(nbray.remote(lambda: 7).remote()) == 7
    place.create(wanted("i-1"))
    assert len(slurm.jobs()) == 2
    place.again()
    assert sorted(place.there()) == ["i-1", "i-2"]
    place.says("i-1", "Node", "word of its node")
    place.run(place.provider.terminate(["i-1", "i-2", "i-unknown"]))
    wait_until(lambda: not place.there(), "the end of both instances", LONG_S)
    wait_until(lambda: labels() == [""], "the end of both nodes", LONG_S)


@pytest.mark.parametrize("place", [{"job_extra_directives": ["--hold"], "walltime": "10"}],
                         indirect=True)  # fmt: skip
def test_a_job_that_is_held_says_so_and_starts_when_it_is_released(
    slurm: Slurm, place: Place
) -> None:
    place.create(wanted("i-1"))
    found = place.there()["i-1"]
    assert found.stage is Stage.WAITING
    assert found.ends is None
    assert "PENDING: JobHeldUser (its user holds it; `scontrol release" in found.why
    slurm.run("scontrol", "release", found.place.split()[-1])
    place.wait("i-1", lambda one: one and one.stage is Stage.RUNNING, "the released job")


@pytest.mark.parametrize("place", [{"walltime": "10", "log_directory": "~/my %j logs"}],
                         indirect=True)  # fmt: skip
def test_a_job_with_a_walltime_says_when_it_ends_and_drains_its_node_before(
    slurm: Slurm, place: Place
) -> None:
    place.create(wanted("i-1"))
    found = place.wait("i-1", lambda one: one and one.ends, "a job with an end")
    assert found is not None and found.ends is not None
    assert 500 < found.ends - time.time() < 601
    place.says("i-1", "runs", "its node")
    slurm.run("scontrol", "update", f"JobId={found.place.split()[-1]}", "TimeLimit=2")
    found = place.there()["i-1"]
    assert found.ends is not None and found.ends - time.time() < 121
    place.says("i-1", "No new work starts", "its drain")
    place.wait("i-1", lambda one: one and one.stage is Stage.ENDED, "its end, drained")
    place.says("i-1", "was drained, and has left: SIGUSR1", "word of its end")


def test_what_slurm_refuses_is_refused_in_its_words_and_not_asked_again(place: Place) -> None:
    place.provider = SlurmProvider(place.cluster)
    place.provider._settings["job"] = place.provider._settings["job"].__class__(partition="none")
    ids = [f"i-{number}" for number in range(100)]
    # Jobs are a second apart: had each been asked for, this would return before most are refused.
    refused = place.create(wanted(*ids))
    assert sorted(refused) == sorted(ids)
    assert all("invalid partition" in why for why in refused.values())
    assert not place.there()


def test_a_job_that_its_user_cancels_has_ended(slurm: Slurm, place: Place) -> None:
    place.create(wanted("i-1"))
    place.wait("i-1", lambda one: one and one.stage is Stage.RUNNING, "a job")
    slurm.run("scancel", place.there()["i-1"].place.split()[-1])
    found = place.wait("i-1", lambda one: one and one.stage is Stage.ENDED, "its end")
    assert found is not None and "CANCELLED" in found.why


def test_jobs_of_other_users_are_not_ours_whatever_they_are_called(
    slurm: Slurm, place: Place
) -> None:
    name = f"nbray:{place.cluster.name}:job:i-1"
    slurm.run("setpriv", "--reuid=games", "--regid=games", "--clear-groups", "sbatch", "-D", "/tmp",
              "-o", "/dev/null", "-J", name, "--wrap", "sleep 60")  # fmt: skip
    assert place.there() == {}
    place.run(place.provider.terminate(["i-1"]))
    (theirs,) = slurm.jobs()
    assert theirs.endswith(name)
    slurm.run("scancel", theirs.split()[0])


def test_jobs_of_a_cluster_whose_head_has_gone_are_cancelled_by_the_next_one(
    slurm: Slurm, place: Place, home: Path
) -> None:
    gone = Place("gone", {"job_extra_directives": ["--hold"]}, home / "none")
    gone.create(wanted("i-1"))
    other = Place("lives", {"job_extra_directives": ["--hold"]})
    other.create(wanted("i-1"))
    assert len(slurm.jobs()) == 2
    assert not place.there()
    wait_until(lambda: len(slurm.jobs()) == 1, "the end of the orphan")
    assert list(other.there()) == ["i-1"]
    other.run(other.provider.terminate(["i-1"]))


def test_without_slurm_the_error_says_where_it_would_work(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        with pytest.raises(ProviderError, match=r"squeue cannot be run here.*login node"):
            place.there()
