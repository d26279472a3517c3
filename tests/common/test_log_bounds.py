"""Logs keep their bounds, whoever writes them, and can be followed across their rotation."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.common.config import Config
from nbray.common.log_files import Log, is_being_written, is_piece, mark_as_written
from nbray.core_worker.run.log_file import LogFile
from nbray.driver.joining import find_session
from nbray.raylet.watch.logs import LogFolder
from nbray.testing import wait_until
from nbray.util import state

MB = 1 << 20


def appended(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


@given(
    sizes=st.lists(st.integers(0, 300), max_size=30), most=st.integers(1, 200),
    kept=st.integers(0, 3), lines=st.integers(0, 8),
)  # fmt: skip
def test_what_is_kept_is_the_end_of_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], most: int, kept: int, lines: int
) -> None:
    log = Log(tmp_path_factory.mktemp("log") / "x.out")
    log.path.touch()
    rng, whole = random.Random(1), b""
    for size in sizes:
        data = bytes(rng.choice(b"abc\n") for _ in range(size))
        appended(log.path, data)
        whole += data
        log.rotate(most, kept)
        assert log.path.stat().st_size <= most
    assert log.size() <= most * (2 * kept + 1)
    assert len(list(log.path.parent.iterdir())) <= max(1, kept) + 1
    pieces = log.pieces()
    assert pieces[-1].end == len(whole)
    for piece in pieces:
        if piece.start == piece.end:
            continue  # it only says where the next one begins
        assert log.read(piece.start, 1000) == (whole[piece.start : piece.end], piece.end)
    place, seen = 0, b""
    while place < len(whole):
        data, behind = log.read(place, 7)
        assert data == whole[behind - len(data) : behind]
        place, seen = behind, seen + data
    assert seen == b"".join(whole[p.start : p.end] for p in pieces) == log.tail(len(whole))
    there = seen.decode().splitlines(keepends=True)
    assert (
        log.tail(log.pieces()[-1].end - log.last_lines(lines))
        .decode()
        .endswith("".join(there[len(there) - lines :] if lines else []))
    )


@given(st.lists(st.tuples(st.sampled_from("mor"), st.integers(0, 120)), max_size=40))
def test_what_others_write_is_found_across_rotations(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    """m: Python writes, o: another process does, r: the raylet rotates."""
    path = tmp_path_factory.mktemp("log") / "x.out"
    log = LogFile(str(path), 150, 100)
    theirs = found = ""
    for step, size in steps:
        match step:
            case "m":
                log.write("m" * size)
            case "o":
                theirs += "o" * size
                appended(path, b"o" * size)
                # Between a rotation by others and the next look there is at most what it allows.
                found += log.read_others()
            case _:
                Log(path).rotate(100, 100)
    found += log.read_others()
    assert found == theirs
    assert Log(path).text().count("o") == len(theirs)


def test_of_what_was_written_too_fast_the_number_is_said(tmp_path: Path) -> None:
    log = LogFile(str(tmp_path / "x.out"), 100, 1)
    for _ in range(10):
        appended(tmp_path / "x.out", b"o" * 101)
        Log(tmp_path / "x.out").rotate(100, 1)
    found = log.read_others()
    assert "were written faster than they could be read" in found and found.endswith("o" * 100)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_loses_lines_of_a_log_and_no_task(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = session_root / "d"
    disk.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=30m,mode=700", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        monkeypatch.setenv("NBRAY_TMPDIR", str(disk))
        nbray.init(num_cpus=1, object_store_memory=32 * MB, log_to_driver=False)

        @nbray.remote(max_retries=0)
        def speaks() -> int:
            for _ in range(100):
                print("hello " * 3000)
            return 1

        assert nbray.get(speaks.remote(), timeout=30) == 1
        with (disk / "full").open("wb", buffering=0) as file:
            file.write(bytes(os.statvfs(disk).f_bavail * 4096))
        assert nbray.get(speaks.remote(), timeout=30) == 1
        (disk / "full").unlink()
        nbray.shutdown()
    finally:
        nbray.shutdown()
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


# --- a node --------------------


@pytest.fixture
def tight(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node whose logs have 1 MB and two pieces; its folder of logs."""
    monkeypatch.setenv("NBRAY_ROTATION_MAX_BYTES", str(MB))
    monkeypatch.setenv("NBRAY_ENDED_WORKER_LOGS_KEPT", "5")
    nbray.init(num_cpus=2, object_store_memory=32 * MB, log_to_driver=False)
    return find_session("auto")[0].path / "logs"


def by_python() -> None:
    for _ in range(30):
        print("x" * MB)


def by_one_print() -> None:
    print("x" * (30 * MB))


def by_c_code() -> None:
    for _ in range(30):
        os.write(1, b"x" * MB)


def by_a_subprocess() -> None:
    program = "import os\nfor _ in range(30): os.write(1, b'x' * (1 << 20))"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("flood", [by_python, by_one_print, by_c_code, by_a_subprocess])
def test_a_flood_leaves_a_bounded_log(tight: Path, flood: Callable[[], None]) -> None:
    def kept() -> int:
        size = 0
        for path in tight.iterdir():
            with suppress(FileNotFoundError):  # it was dropped meanwhile
                size += path.stat().st_size
        return size

    nbray.get(nbray.remote(flood).remote(), timeout=60)
    if flood in (by_python, by_one_print):
        assert kept() < 5 * MB, "at once: Python's own writes know the bound"
    wait_until(lambda: kept() < 5 * MB, "the raylet to rotate what others wrote")
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1


def test_a_daemons_log_is_bounded_too(tight: Path) -> None:
    for name in ("gcs.log", "raylet.log", "template.log"):
        appended(tight / name, b"x\n" * MB)
        wait_until(lambda name=name: (tight / name).stat().st_size < MB, f"{name} to be rotated")
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1


def test_a_log_that_is_followed_misses_nothing_and_repeats_nothing(tight: Path) -> None:
    @nbray.remote
    class Writer:
        def write(self, first: int, last: int) -> None:
            for number in range(first, last):
                print(f"line {number} {'x' * 2000}")

    writer = Writer.remote()
    nbray.get(writer.write.remote(0, 1), timeout=30)
    (row,) = state.list_actors()
    pieces = state.get_log(actor_id=row.actor_id, follow=True, tail=-1)
    text = str(next(pieces))
    for first in range(1, 2000, 200):
        nbray.get(writer.write.remote(first, first + 200), timeout=30)
        while text.count("\n") < first + 200:
            text += str(next(pieces))
    numbers = [int(line.split()[1]) for line in text.splitlines()]
    assert numbers == list(range(2001))
    name = next(iter(state.list_logs(glob_filter="worker-*.out")["worker_out"]))
    assert not is_piece(name)
    last = "".join(map(str, state.get_log(actor_id=row.actor_id, tail=700)))
    assert [int(line.split()[1]) for line in last.splitlines()] == list(range(1301, 2001))


def test_workers_that_ended_long_ago_leave_no_logs(tight: Path) -> None:
    @nbray.remote(max_calls=1)
    def leaves() -> int:
        return os.getpid()

    @nbray.remote
    class Stays:
        def speak(self) -> None:
            print("I stay")

    stays = Stays.remote()
    nbray.get(stays.speak.remote(), timeout=30)
    living = {path.stem for path in tight.glob("worker-*.out") if path.stat().st_size}
    nbray.get([leaves.remote() for _ in range(15)], timeout=60)

    def kept() -> set[str]:
        return {path.stem for path in tight.glob("worker-*.out")}

    wait_until(lambda: len(kept()) < 15, "the oldest logs to be dropped")
    assert living <= kept()


def test_the_bounds_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_ROTATION_MAX_BYTES", "0")
    monkeypatch.setenv("NBRAY_ROTATION_BACKUP_COUNT", "7")
    config = Config.from_env()
    assert (config.rotation_max_bytes, config.rotation_backup_count) == (0, 7)


def test_jobs_that_ended_leave_so_many_logs_and_one_that_is_written_stays(tmp_path: Path) -> None:
    config = Config(ended_job_logs_kept=3, ended_job_logs_bytes=1 << 20)
    names = [f"job-driver-j.{number}.log" for number in range(6)]
    for age, name in enumerate(reversed(names)):
        for path in (tmp_path / name, tmp_path / f"{name}.17"):
            appended(path, b"a line\n")
            os.utime(path, (1e9 - age, 1e9 - age))
    appended(tmp_path / "worker-0123456789ab.out", b"of a worker\n")
    folder = LogFolder(tmp_path, config, set)
    with (tmp_path / names[0]).open("ab") as first:
        mark_as_written(first.fileno())
        child = subprocess.Popen(["sleep", "60"], stdout=first)  # it outlives who started it
    try:
        folder._look(set())
        assert is_being_written(tmp_path / names[0])
        assert {path.name for path in tmp_path.glob("job-*.log")} == {names[0], *names[3:]}
        assert (tmp_path / f"{names[0]}.17").exists() and not (tmp_path / f"{names[1]}.17").exists()
    finally:
        child.kill()
        child.wait()
    assert not is_being_written(tmp_path / names[0])
    appended(tmp_path / names[5], b"x" * (1 << 20))
    folder._look(set())
    assert not list(tmp_path.glob("job-*"))
