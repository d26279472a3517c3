"""Values that do not fit into memory: what goes to disk, how it comes back, and when it cannot."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.nodes import join_here

import nbray
from nbray.exceptions import OutOfDiskError
from nbray.object_store.spilling import StoreState, bytes_to_spill, next_batch
from nbray.raylet.objects.table import ObjectTable, Place
from nbray.testing import wait_until

MB = 1 << 20
STORE = 40 * MB


# --- what goes to disk: the decision --------------------


@given(
    st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 150),
    st.sampled_from([0.5, 0.8, 1.0]),
)  # fmt: skip
def test_enough_is_spilled_for_the_threshold_and_for_what_waits(
    clean: int, moving: int, held: int, wanted: int, threshold: float
) -> None:
    used = min(100, clean + moving + held)
    clean, moving = min(clean, used), min(moving, used - min(clean, used))
    state = StoreState(100, clean, used, moving, wanted)
    missing = bytes_to_spill(state, threshold)
    needed_after = used - clean - moving - missing
    assert needed_after <= 100 * threshold
    assert needed_after <= max(0, 100 - wanted)
    if wanted and not moving:
        assert missing, "a creation waits, and nothing is done for it"


def test_nothing_goes_to_disk_below_the_threshold() -> None:
    assert bytes_to_spill(StoreState(100, 0, 80, 0, 0), 0.8) == 0
    assert bytes_to_spill(StoreState(100, 30, 100, 0, 0), 0.8) == 0
    assert bytes_to_spill(StoreState(100, 0, 81, 0, 0), 0.8) == 1


def test_small_objects_share_a_file_and_a_large_one_has_its_own() -> None:
    dirty = [(b"a", 40), (b"b", 40), (b"c", 40), (b"d", 500)]
    assert [name for name, _ in next_batch(dirty, 1, 100)] == [b"a", b"b"]
    assert [name for name, _ in next_batch(dirty[3:], 1, 100)] == [b"d"]
    assert next_batch(dirty, 0, 100) == []


class TableMachine(RuleBasedStateMachine):
    """Objects are written, read, moved to disk and freed in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = ObjectTable(4096)
        self.names = 0
        self.written: set[bytes] = set()
        self.sealed: set[bytes] = set()
        self.moving: set[bytes] = set()
        self.pins: list[tuple[bytes, str]] = []
        self.rooms: list[tuple[int, int, str]] = []
        self.places: set[Place] = set()

    @rule(size=st.integers(1, 1500), creator=st.sampled_from("PQ"))
    def create(self, size: int, creator: str) -> None:
        self.names += 1
        name = b"%d" % self.names
        if self.table.create(name, size, creator.encode(), creator) is not None:
            self.written.add(name)

    @rule(size=st.integers(1, 9000), creator=st.sampled_from("PQ"))
    def create_in_file(self, size: int, creator: str) -> None:
        self.names += 1
        name = b"%d" % self.names
        place = Place(name, 0)
        assert self.table.create_in_file(name, size, creator.encode(), creator, "", b"", place)
        assert not self.table.create_in_file(name, size, b"", creator, "", b"", Place(b"", 0))
        self.places.add(place)
        self.written.add(name)

    @precondition(lambda self: self.written)
    @rule(data=st.data())
    def seal(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.written)))
        self.written.discard(name)
        self.table.seal(name)
        self.sealed.add(name)

    @precondition(lambda self: self.sealed)
    @rule(data=st.data(), holder=st.sampled_from("PQ"))
    def pin(self, data: st.DataObject, holder: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.sealed)))
        assert self.table.pin(name, holder) is not None, "a sealed object is always readable"
        self.pins.append((name, holder))

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pin = data.draw(st.sampled_from(self.pins))
        self.pins.remove(pin)
        self.table.unpin(*pin)

    @precondition(lambda self: any(True for _ in self.table.dirty()))
    @rule(data=st.data())
    def start_moving(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([name for name, _ in self.table.dirty()]))
        assert all(pinned != name for pinned, _ in self.pins)
        self.table.start_moving(name)
        self.moving.add(name)

    @precondition(lambda self: self.moving)
    @rule(data=st.data(), works=st.booleans())
    def moved(self, data: st.DataObject, works: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.moving)))
        self.moving.discard(name)
        place = Place(name, 0) if works else None
        if place is not None:
            self.places.add(place)
        self.table.moved(name, place)

    @precondition(lambda self: self.sealed)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.sealed)))
        self.sealed.discard(name)
        self.table.free(name)

    @rule(size=st.integers(64, 1024), holder=st.sampled_from("PQ"))
    def lend(self, size: int, holder: str) -> None:
        offset = self.table.lend_buffer(size, holder)
        if offset is not None:
            self.rooms.append((offset, offset + (size + 63) // 64 * 64, holder))

    @precondition(lambda self: self.rooms)
    @rule(data=st.data(), freed_before=st.booleans())
    def write_into_room(self, data: st.DataObject, freed_before: bool) -> None:
        start, end, holder = data.draw(st.sampled_from(self.rooms))
        at = data.draw(st.integers(0, (end - start) // 64 - 1)) * 64 + start
        size = data.draw(st.integers(1, end - at))
        other = "Q" if holder == "P" else "P"
        self.names += 1
        name = b"%d" % self.names
        if freed_before:
            self.table.free(name, may_come=True)
        assert not self.table.add_written(name, at, size, b"", other, "")
        assert self.table.add_written(name, at, size, holder.encode(), holder, "")
        if not freed_before:
            self.sealed.add(name)
        assert (self.table.locate(name) is None) is freed_before
        self.rooms.remove((start, end, holder))
        used = at + (size + 63) // 64 * 64
        self.rooms += [r for r in ((start, at, holder), (used, end, holder)) if r[0] < r[1]]

    @rule(dead=st.sampled_from("PQ"))
    def process_dies(self, dead: str) -> None:
        mine = {i for i, s in self.table._objects.items() if s.owner_id == dead.encode()}
        self.table.process_gone(dead)
        self.table.owner_gone(dead.encode())
        self.written -= mine
        self.sealed -= mine
        self.pins = [pin for pin in self.pins if pin[1] != dead]
        self.rooms = [room for room in self.rooms if room[2] != dead]

    @invariant()
    def what_is_used_is_what_is_known(self) -> None:
        blocks = [
            (s.block, (s.size + 63) // 64 * 64)
            for s in self.table._objects.values() if s.block is not None
        ]  # fmt: skip
        blocks += [(start, end - start) for start, end, _ in self.rooms]
        assert self.table.allocator.used == sum(size for _, size in blocks)
        end = 0
        for start, size in sorted(blocks):
            assert start >= end, "two blocks overlap"
            end = start + size

    @invariant()
    def no_place_is_needed_and_dropped(self) -> None:
        while self.table.dropped_places:
            self.places.remove(self.table.dropped_places.pop())
        needed = {s.place for s in self.table._objects.values() if s.place is not None}
        assert needed == self.places
        assert self.table.evicted == []

    def teardown(self) -> None:
        for name in self.moving:
            self.table.moved(name, None)
        for holder in "PQ":
            self.table.process_gone(holder)
            self.table.owner_gone(holder.encode())
        assert len(self.table) == 0
        assert self.table.allocator.used == 0
        assert self.table.state(0) == StoreState(4096, 0, 0, 0, 0)


TestTable = TableMachine.TestCase


# --- real clusters with small stores --------------------


@pytest.fixture
def small(session_root: Path) -> Path:
    nbray.init(num_cpus=2, object_store_memory=STORE)
    return session_root


def spilled() -> float:
    return float(nbray.nodes()[0]["Stats"]["store_spilled"])


def used() -> float:
    return float(nbray.nodes()[0]["Stats"]["store_used"])


@nbray.remote
def make(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 40, count)


@nbray.remote
def total(*arrays: np.ndarray) -> int:
    return sum(int(array.sum()) for array in arrays)


def expected(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << 40, count)


def test_five_times_the_store_comes_back_right_and_nothing_is_left(small: Path) -> None:
    count = MB // 2  # 4 MB each, 200 MB in all
    refs = [nbray.put(expected(seed, count)) for seed in range(25)]
    refs += [make.remote(seed, count) for seed in range(25, 50)]
    sums = [total.remote(ref) for ref in refs]
    values = nbray.get(refs, timeout=60)  # all at once: far more than the store holds
    for seed, value in enumerate(values):
        assert np.array_equal(value, expected(seed, count))
        assert not value.flags.writeable
    assert nbray.get(sums, timeout=60) == [int(value.sum()) for value in values]
    wait_until(lambda: spilled() > STORE, "values on disk")
    del refs, values, value, sums
    wait_until(lambda: spilled() == 0 and used() == 0, "the end of all values", 30)


def test_many_small_values_share_files(small: Path) -> None:
    refs = [nbray.put(np.full(30_000, i)) for i in range(400)]  # 240 KB each
    wait_until(lambda: spilled() > STORE, "values on disk")
    raylet = next(p for p in psutil.process_iter(["cmdline"]) if is_raylet(p, small))
    files = [f for f in os.listdir(f"/proc/{raylet.pid}/fd") if "nbray-spilled" in link(raylet, f)]
    assert 0 < len(files) < 100
    assert [int(nbray.get(ref)[-1]) for ref in refs] == list(range(400))


def is_raylet(process: psutil.Process, root: Path) -> bool:
    command = process.info["cmdline"] or []
    return "nbray.raylet" in command and any(str(root) in part for part in command)


def link(process: psutil.Process, fd: str) -> str:
    try:
        return os.readlink(f"/proc/{process.pid}/fd/{fd}")
    except FileNotFoundError:
        return ""


@pytest.mark.slow
def test_readers_and_writers_are_killed_in_the_middle(small: Path) -> None:
    count = MB // 4

    @nbray.remote(max_retries=-1)
    def mix(seed: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        assert first[0] == second[0]
        return expected(seed, count)

    kept = [nbray.put(np.full(count, 7)) for _ in range(20)]
    refs = [mix.remote(i, kept[i % 20], kept[(i + 7) % 20]) for i in range(120)]
    stop = threading.Event()
    killed = []

    def kill() -> None:
        while not stop.wait(0.3):
            for child in psutil.process_iter(["cmdline", "pid"]):
                command = child.info["cmdline"] or []
                template = "nbray.core_worker.run.template" in command
                with contextlib.suppress(psutil.NoSuchProcess):  # it has left meanwhile
                    if template and str(small) in " ".join(command) and child.ppid() != raylet.pid:
                        child.kill()
                        killed.append(child.pid)
                        break

    raylet = next(p for p in psutil.process_iter(["cmdline"]) if is_raylet(p, small))
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        nbray.wait(refs, num_returns=len(refs), timeout=60)
    finally:
        stop.set()
        killer.join()
    for seed, ref in enumerate(refs):
        assert np.array_equal(nbray.get(ref, timeout=30), expected(seed, count))
    assert killed
    assert all((nbray.get(ref) == 7).all() for ref in kept)
    del refs, kept, ref
    wait_until(lambda: spilled() == 0 and used() == 0, "the end of all values", 30)


def test_a_full_store_names_its_holders(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_STORE_FULL_WAIT_S", "0.5")
    monkeypatch.setenv("NBRAY_LOCAL_FS_CAPACITY_THRESHOLD", "0")
    nbray.init(num_cpus=1, object_store_memory=STORE)
    ref = nbray.put(np.zeros(30 * MB, np.uint8))
    held = nbray.get(ref)
    with pytest.raises(OutOfDiskError, match="store is full") as e:
        nbray.put(np.zeros(20 * MB, np.uint8))
    text = str(e.value)
    assert f"owned by driver pid {os.getpid()}" in text
    assert f"read by driver pid {os.getpid()}" in text
    assert f"made by {__file__}:" in text
    with pytest.raises(OutOfDiskError, match="Object size is 524"):
        nbray.put(np.zeros(50 * MB, np.uint8))
    assert held[-1] == 0
    del held, ref
    assert nbray.get(nbray.put(np.ones(20 * MB, np.uint8)))[-1] == 1


def test_a_dropped_ref_frees_its_value_though_its_program_does_nothing_more(small: Path) -> None:
    raylet = next(p for p in psutil.process_iter(["cmdline"]) if is_raylet(p, small))
    refs = [nbray.put(np.full(MB, i)) for i in range(20)]  # 160 MB: most of it in files
    files = f"/proc/{raylet.pid}/fd"

    def any_file() -> bool:
        return any("nbray-spilled" in link(raylet, fd) for fd in os.listdir(files))

    wait_until(any_file, "values on disk")
    time.sleep(0.1)  # nothing is under way any more
    refs.clear()
    wait_until(lambda: not any_file(), "the end of the files")


def test_a_put_waits_for_room_when_the_disk_has_none(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_LOCAL_FS_CAPACITY_THRESHOLD", "0")
    nbray.init(num_cpus=1, object_store_memory=STORE)
    held = [nbray.get(nbray.put(np.zeros(30 * MB, np.uint8)))]
    threading.Timer(1.0, held.clear).start()
    assert nbray.get(nbray.put(np.ones(30 * MB, np.uint8)))[-1] == 1
    assert held == []


def test_a_killed_raylet_leaves_nothing_on_the_disk(session_root: Path, tmp_path: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(tmp_path))
    refs = [nbray.put(np.zeros(MB)) for _ in range(20)]
    wait_until(lambda: spilled() > STORE, "values on disk")
    raylet = next(p for p in psutil.process_iter(["cmdline"]) if is_raylet(p, session_root))
    raylet.kill()
    with pytest.raises(nbray.exceptions.RayError):
        nbray.get(refs[0], timeout=30)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", ["0.95", "1.5"])  # the check before writing, and ENOSPC
def test_a_full_disk_is_said_and_nothing_is_lost(
    small_disk: Path, session_root: Path, monkeypatch: pytest.MonkeyPatch, threshold: str
) -> None:
    monkeypatch.setenv("NBRAY_STORE_FULL_WAIT_S", "2")
    monkeypatch.setenv("NBRAY_LOCAL_FS_CAPACITY_THRESHOLD", threshold)
    nbray.init(num_cpus=1, object_store_memory=STORE, object_spilling_directory=str(small_disk))
    refs = []
    with pytest.raises(OutOfDiskError, match="Local disk is full") as e:
        for i in range(40):
            refs.append(nbray.put(np.full(3 * MB // 8, i)))
    assert str(small_disk) in str(e.value)
    assert len(refs) > 10
    for i, ref in enumerate(refs):
        assert (nbray.get(ref, timeout=30) == i).all()
    del refs[:5], ref
    refs.append(nbray.put(np.full(3 * MB // 8, 99)))
    assert nbray.get(refs[-1])[0] == 99
    nbray.shutdown()
    assert list(small_disk.iterdir()) == []


def test_values_put_from_many_threads_and_room_in_advance_are_right(small: Path) -> None:
    def put(first: int) -> None:
        for i in range(first, first + 100):
            refs[i] = nbray.put(np.full(14_000 + i % 7 * 1000, i))

    refs: dict[int, nbray.ObjectRef] = {}
    threads = [threading.Thread(target=put, args=(n * 100,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(refs) == set(range(300))
    wait_until(lambda: used() > 0, "a report of the values")
    for i, ref in refs.items():
        assert (nbray.get(ref, timeout=30) == i).all()
    del ref
    refs.clear()
    wait_until(lambda: used() == 0, "objects and room in advance to be given back")


def test_room_of_a_killed_process_comes_back(small: Path) -> None:
    @nbray.remote(max_retries=0)
    def hoard() -> None:
        refs = [nbray.put(np.zeros(15_000)) for _ in range(50)]
        assert nbray.get(refs[-1])[0] == 0
        while not used():
            refs.append(nbray.put(np.zeros(15_000)))
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(hoard.remote(), timeout=30)
    wait_until(lambda: used() == 0, "the dead process's blocks to be free")


def test_a_spilled_value_is_read_by_another_node(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=STORE)
    far = join_here({"far": 1}, 20 * MB)
    try:
        refs = [nbray.put(np.full(3 * MB // 8, i)) for i in range(30)]  # 90 MB
        sums = total.options(resources={"far": 1}).remote(*refs)  # all of it at once, in 20 MB
        assert nbray.get(sums, timeout=60) == sum(i * (3 * MB // 8) for i in range(30))
    finally:
        far.stop()
