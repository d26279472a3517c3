"""What Ray promises under failure: docs/fault-tolerance.md names the test of each promise."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from support.places import ROOT

import nbray
from nbray.driver.joining import find_session
from nbray.launcher.described import NodeOptions
from nbray.launcher.local import join
from nbray.testing import wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

SOURCES = {path.name: path for path in (ROOT / "tests").rglob("test_*.py")}


@pytest.mark.parametrize("page", ["fault-tolerance.md", "notebook.md", "coming-from-ray.md"])
def test_every_promise_names_a_test_that_exists(page: str) -> None:
    file, count = "", 0
    text = (ROOT / "docs" / page).read_text()
    for match in re.finditer(r"`(test_\w+\.py)`|`(test_\w+\.py)?::(test_\w+)`", text):
        file = match[1] or match[2] or file  # what begins with :: is in the file named before
        source = SOURCES[file].read_text()
        assert not match[3] or f"def {match[3]}(" in source, f"{file} has no {match[3]}"
        count += 1
    assert count > 20


@nbray.remote(num_cpus=0)
class Child:
    def pid(self) -> int:
        return os.getpid()


@nbray.remote(num_cpus=0)
class Owner:
    def put(self) -> list[nbray.ObjectRef]:
        return [nbray.put(np.ones(100_000))]

    def child(self, **options: Any) -> nbray.ActorHandle:
        self.kept = Child.options(**options).remote()
        return self.kept


@nbray.remote(num_cpus=0)
class Crasher:
    def pid(self) -> int:
        return os.getpid()

    def crash(self) -> None:
        os._exit(1)


def test_an_object_is_lost_with_its_owner(cluster: Path) -> None:
    owner = Owner.remote()
    (ref,) = nbray.get(owner.put.remote())
    nbray.kill(owner)
    wait_until(lambda: fails_with_owner(ref), "the end of the object")


def fails_with_owner(ref: nbray.ObjectRef) -> bool:
    """Its value can be read as long as it is there; then only one error tells of it."""
    try:
        nbray.get(ref, timeout=30)
    except nbray.exceptions.OwnerDiedError:
        return True
    return False


def is_dead(method: Any) -> bool:
    try:
        nbray.get(method.remote(), timeout=30)
    except nbray.exceptions.ActorDiedError:
        return True
    return False


def test_an_actor_ends_with_its_owner_and_a_detached_one_stays(cluster: Path) -> None:
    owner = Owner.remote()
    child = nbray.get(owner.child.remote())
    detached = nbray.get(owner.child.remote(name="stays", lifetime="detached"))
    nbray.kill(owner)
    wait_until(lambda: is_dead(child.pid), "the child's end", timeout=60)
    assert nbray.get(detached.pid.remote(), timeout=30)
    nbray.kill(detached)


def test_an_actor_restarts_as_often_as_it_may_and_is_dead_then(cluster: Path) -> None:
    actor = Crasher.options(max_restarts=1, max_task_retries=0).remote()
    first = nbray.get(actor.pid.remote())
    with pytest.raises(nbray.exceptions.RayActorError):  # at most once: not run again
        nbray.get(actor.crash.remote(), timeout=30)
    second = nbray.get(actor.pid.options(max_task_retries=-1).remote(), timeout=60)
    assert second != first
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(actor.crash.remote(), timeout=30)
    assert is_dead(actor.pid)


def test_a_call_may_be_repeated_on_the_actor_that_came_back(cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(num_cpus=0, max_restarts=1, max_task_retries=1)
    class Once:
        def work(self, path: str) -> int:
            if not Path(path).exists():
                Path(path).touch()
                os._exit(1)
            return 7

    assert nbray.get(Once.remote().work.remote(str(tmp_path / "ran")), timeout=30) == 7


def test_what_put_made_cannot_be_made_again(cluster: Path) -> None:
    """An object of `put` has no lineage: it is lost with the only node that has it."""
    head, info = find_session("auto")
    node = join(info["gcs_address"], NodeOptions({"CPU": 1, "far": 1}), token=head.token)
    try:
        owner = Owner.options(resources={"far": 1}).remote()
        (ref,) = nbray.get(owner.put.remote(), timeout=30)
        os.kill(node.children[-1].pid, signal.SIGKILL)
        with pytest.raises(nbray.exceptions.ObjectLostError):
            nbray.get(ref, timeout=60)
    finally:
        node.stop()


def test_an_actor_of_a_dead_node_comes_back_on_another(cluster: Path) -> None:
    head, info = find_session("auto")
    node = join(info["gcs_address"], NodeOptions({"CPU": 1}), token=head.token)
    try:
        there = NodeAffinitySchedulingStrategy(node.node_id, soft=True)
        actor = Crasher.options(max_restarts=1, scheduling_strategy=there).remote()
        first = nbray.get(actor.pid.remote(), timeout=30)
        os.kill(node.children[-1].pid, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(first), "the end of the actor's process")
        again = actor.pid.options(max_task_retries=-1).remote()
        assert nbray.get(again, timeout=60) != first
    finally:
        node.stop()
