"""Answers on disk: what is read is what this user has written, whole, or nothing."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from nbray.jupyter_ext.cache.store import NotOursError, Store, local_key
from nbray.testing import wait_until

KEY = b"k" * 64


def _store(folder: Path, most: int = 10**6) -> Store:
    return Store(folder / "kept", KEY, most)


def _file(store: Store) -> Path:
    (found,) = store.folder.glob("*.answer")
    return found


def test_parts_come_back_as_they_were_and_may_be_written(tmp_path: Path) -> None:
    store = _store(tmp_path)
    array = numpy.arange(1000.0)
    store.write("a", {"label": "In [1]"}, [b"small", array.data, b"", b"\0" * 63])
    found = store.read("a")
    assert found is not None and found.about["label"] == "In [1]"
    assert [bytes(part) for part in found.parts] == [b"small", array.tobytes(), b"", b"\0" * 63]
    again = numpy.frombuffer(found.parts[1])
    assert again.flags.writeable and again.flags.aligned
    assert store.read("b") is None
    assert (store.folder / ".gitignore").read_text() == "*\n"
    kept = store.about("a")
    assert kept is not None and kept.size == _file(store).stat().st_size == store.total()


def test_a_file_that_was_cut_or_changed_anywhere_is_not_read(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.write("a", {"label": "In [1]"}, [b"x" * 200, b"y" * 10])
    whole = _file(store).read_bytes()
    for length in range(0, len(whole), 7):
        _file(store).write_bytes(whole[:length])
        assert store.read("a") is None
    for place in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= 1
        _file(store).write_bytes(changed)
        assert store.read("a") is None or place in _padding(whole)
    _file(store).write_bytes(whole + b"more")
    assert store.read("a") is None
    _file(store).write_bytes(whole)
    assert store.read("a") is not None


def _padding(whole: bytes) -> range:
    """Spaces behind the description, which say nothing."""
    end = 56 + int.from_bytes(whole[48:56], "little")
    return range(end, end + -end % 64)


def test_a_foreign_file_is_not_read(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.write("a", {}, [b"x"])
    path = _file(store)
    assert Store(store.folder, b"o" * 64, 10**6).read("a") is None
    os.link(path, store.folder / "b.answer")
    assert store.read("b") is None  # it answers something else
    (store.folder / "b.answer").unlink()
    for mode in (0o640, 0o604, 0o666):
        path.chmod(mode)
        assert store.read("a") is None
    path.chmod(0o600)
    moved = path.rename(store.folder / "elsewhere")
    path.symlink_to(moved)
    assert store.read("a") is None
    path.unlink()
    os.mkfifo(path, 0o600)
    assert store.read("a") is None  # and nobody waits for a writer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_and_folder_are_not_used(tmp_path: Path) -> None:
    store = _store(tmp_path)
    store.write("a", {}, [b"x"])
    os.chown(_file(store), 12345, 12345)
    assert store.read("a") is None and store.about("a") is None
    os.chown(store.folder, 12345, 12345)
    with pytest.raises(NotOursError, match="not a folder of this user's"):
        store.write("b", {}, [b"x"])


def test_the_oldest_go_first_and_what_was_read_is_not_old(tmp_path: Path) -> None:
    store = _store(tmp_path, 4000)
    for number, name in enumerate("abc"):
        store.write(name, {}, [b"x" * 800])
        os.utime(store.folder / f"{name}.answer", (number, number))
    assert store.read("a") is not None
    store.write("d", {}, [b"x" * 800])
    assert set(store.names()) == {"a", "c", "d"} and store.total() <= 4000
    with pytest.raises(ValueError, match="are more than the 4000"):
        store.write("e", {}, [b"x" * 4000])
    assert set(store.names()) == {"a", "c", "d"} and not list(store.folder.glob(".*.new"))
    assert store.drop("a") and not store.drop("a")


def _write_for_ever(folder: Path) -> None:
    store = _store(folder, 10**9)
    while True:
        store.write("a", {}, [os.urandom(1 << 20)])


def test_a_writer_that_is_killed_leaves_nothing_that_is_read_and_nothing_for_ever(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("fork")
    store = _store(tmp_path, 10**9)
    for _ in range(3):
        writer = context.Process(target=_write_for_ever, args=(tmp_path,))
        writer.start()
        assert writer.pid is not None
        wait_until(lambda: list(store.folder.glob(".*.new")), "a file that is being written")
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        found = store.read("a")
        assert found is None or len(found.parts[0]) == 1 << 20
    store.write("b", {}, [b"x"])
    assert not [path for path in store.folder.glob(".*.new") if path.stat().st_size]


def test_a_full_disk_is_told_and_leaves_what_was_there(tmp_path: Path) -> None:
    store = _store(tmp_path, 10**9)
    store.write("a", {}, [b"x" * 1000])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        for name in "ab":
            with pytest.raises(OSError, match="too large"):
                store.write(name, {}, [b"y" * 100_000])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found = store.read("a")
    assert found is not None and bytes(found.parts[0]) == b"x" * 1000
    assert store.names() == ["a"] and not list(store.folder.glob(".*.new"))


def test_kernels_that_write_the_same_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_for_ever, args=(tmp_path,)) for _ in range(2)]
    store = _store(tmp_path, 10**9)
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: store.read("a") is not None, "the first answer")
        for _ in range(20):
            found = store.read("a")
            assert found is not None and len(found.parts[0]) == 1 << 20
    finally:
        for writer in writers:
            writer.kill()
            writer.join()


def test_the_key_is_made_once_and_is_of_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "cache_key"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from nbray.jupyter_ext.cache.store import local_key\nprint(local_key(Path(sys.argv[1])))"
    )
    made = [
        subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    told = {one.communicate()[0] for one in made}
    assert told == {f"{local_key(path)!r}\n".encode()}
    assert [entry.name for entry in path.parent.iterdir()] == ["cache_key"]
    path.chmod(0o644)
    with pytest.raises(NotOursError, match="chmod 600"):
        local_key(path)
    path.chmod(0o600)
    path.write_text("short")
    with pytest.raises(NotOursError, match="too short"):
        local_key(path)
