"""Values for which the arena has no room, as all in it is in use or they are larger: in files."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.nodes import MB
from support.processes import running

import nbray
from nbray.cluster_utils import Cluster
from nbray.driver.driver import current_core
from nbray.exceptions import OutOfDiskError, WorkerCrashedError
from nbray.testing import wait_until
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from nbray.wire import object_messages as om

STORE = 40 * MB


def stats(what: str) -> float:
    return float(sum(row["Stats"][what] for row in nbray.nodes() if row["Alive"]))


def array(size: int, value: int = 7) -> np.ndarray:
    return np.full(size, value, np.uint8)


def is_right(value: np.ndarray, size: int) -> bool:
    return value.shape == (size,) and bool((value == 7).all())


def files_mapped_here() -> str:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return "\n".join(line for line in lines if "nbray-spilled" in line)


def open_spill_files(root: Path) -> int:
    """How many files of values the raylet holds open; its sockets come and go with workers."""
    count, (raylet,) = 0, running(root, "nbray.raylet")
    for link in Path(f"/proc/{raylet.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            count += "nbray-spilled" in os.readlink(link)
    return count


@nbray.remote
def make(size: int) -> np.ndarray:
    return array(size)


@nbray.remote
def size_of(value: np.ndarray) -> int:
    assert (value == 7).all()
    return len(value)


@nbray.remote
def stream(size: int) -> Iterator[np.ndarray]:
    for _ in range(2):
        yield array(size)


@nbray.remote
class Keeper:
    def keep(self, value: np.ndarray) -> np.ndarray:
        self.value = value
        return value


@pytest.fixture(params=[30 * MB, 100 * MB], ids=["all-in-use", "larger-than-the-store"])
def full(session_root: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """A store whose values are read, and the size of a value that finds no room there."""
    nbray.init(num_cpus=2, object_store_memory=STORE)
    held = nbray.get(nbray.put(np.zeros(30 * MB, np.uint8)))
    yield int(request.param)
    assert not held.any()


def test_values_of_all_kinds_find_room_on_the_disk(full: int) -> None:
    ref = nbray.put(array(full))
    assert is_right(nbray.get(ref), full)
    assert nbray.get(size_of.remote(ref), timeout=60) == full
    assert nbray.get(size_of.remote(array(full)), timeout=60) == full
    assert is_right(nbray.get(make.remote(full), timeout=60), full)
    assert [is_right(nbray.get(item), full) for item in stream.remote(full)] == [True, True]
    keeper = Keeper.remote()
    assert is_right(nbray.get(keeper.keep.remote(ref), timeout=60), full)


def test_they_are_read_in_place_counted_and_freed(full: int) -> None:
    ref = nbray.put(array(full))
    value = nbray.get(ref)
    assert not value.flags.writeable
    assert files_mapped_here()
    wait_until(lambda: stats("store_spilled") >= full, "the file to be counted")
    del ref
    wait_until(lambda: stats("store_spilled") == 0, "the file to be freed")
    assert is_right(value, full)  # an array keeps what it shows
    del value
    assert not files_mapped_here()


def test_other_nodes_read_them(session_root: Path) -> None:
    cluster = Cluster(
        initialize_head=True, connect=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE},
    )  # fmt: skip
    try:
        other = cluster.add_node(num_cpus=1, object_store_memory=STORE)
        there: Any = NodeAffinitySchedulingStrategy(other.node_id, soft=False)
        ref = nbray.put(array(100 * MB))
        size = size_of.options(scheduling_strategy=there).remote(ref)
        assert nbray.get(size, timeout=60) == 100 * MB
        made = make.options(scheduling_strategy=there).remote(100 * MB)
        assert is_right(nbray.get(made, timeout=60), 100 * MB)
        del ref, made, size
        wait_until(lambda: stats("store_spilled") == 0, "the files of both nodes to be freed")
    finally:
        cluster.shutdown()


def test_small_values_share_files(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=STORE)
    held = nbray.get([nbray.put(array(150_000)) for _ in range(250)])
    refs = [nbray.put(array(150_000)) for _ in range(250)]
    assert all(is_right(value, 150_000) for value in nbray.get(refs))
    assert 0 < open_spill_files(session_root) < 50
    assert len(held) == 250
    del refs, held
    wait_until(lambda: stats("store_spilled") == 0, "the files to be freed")
    wait_until(lambda: open_spill_files(session_root) == 0, "the files to be closed")


def test_a_writer_that_is_killed_leaves_no_file(session_root: Path) -> None:
    @nbray.remote(max_retries=0)
    def die() -> None:
        core = current_core()
        object_id = core.me.new_task_id() + bytes(4)
        create = om.CreateObject(object_id, 100 * MB, core.me.address)
        created = core.peers.request(("create", object_id), create)
        assert created.path
        assert created.cause is None
        os.kill(os.getpid(), signal.SIGKILL)

    nbray.init(num_cpus=1, object_store_memory=STORE)
    with pytest.raises(WorkerCrashedError):
        nbray.get(die.remote(), timeout=60)
    wait_until(lambda: stats("store_spilled") == 0, "the file to be freed")


def test_a_disk_without_room_is_said(
    small_disk: Path, session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_STORE_FULL_WAIT_S", "0.5")
    monkeypatch.setenv("NBRAY_LOCAL_FS_CAPACITY_THRESHOLD", "1.5")  # ENOSPC
    nbray.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(small_disk))
    with pytest.raises(OutOfDiskError, match=str(small_disk)):
        nbray.put(array(100 * MB))
    with pytest.raises(OutOfDiskError, match="Local disk is full"):
        nbray.get(make.remote(100 * MB), timeout=60)
    held = nbray.get(nbray.put(array(30 * MB)))
    ref = nbray.put(array(20 * MB))  # what fits is still taken
    assert is_right(nbray.get(ref), 20 * MB)
    assert is_right(held, 30 * MB)
