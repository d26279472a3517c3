"""Session folders: where they are, and what nothing of them may stop."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.commands import command
from support.processes import running
from support.stopping import wait_until_still

import nbray
from nbray.common import session_roots
from nbray.common.pids import start_time
from nbray.common.session import Session
from nbray.common.session_roots import known_roots, sessions_root
from nbray.launcher.found import found_nodes
from nbray.launcher.token import load_token
from nbray.testing import processes_of, wait_until

MB = 1 << 20

# --- the folder --------------------


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in the place of /tmp, and no word of the user's about another."""
    monkeypatch.delenv("NBRAY_TMPDIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="nbt") as folder:
        monkeypatch.setattr(session_roots, "_SHARED", Path(folder))
        yield Path(folder)


def _open(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


def _of_another(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


def _link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


TAKEN: dict[str, Callable[[Path], Any]] = {
    "a folder that is open": _open,
    "a file": Path.touch,
    "a link to a folder of the user's": _link,
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "a folder of another user": _of_another,
}


@pytest.mark.parametrize("take", TAKEN.values(), ids=TAKEN)
def test_a_predictable_name_that_is_taken_is_not_the_end(
    shared: Path, take: Callable[[Path], Any]
) -> None:
    if take is _of_another and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    take(shared / f"nbray-{os.getuid()}")
    root = sessions_root()
    assert root.parent == shared and root.name != f"nbray-{os.getuid()}"
    assert stat.S_IMODE(root.lstat().st_mode) == 0o700
    assert sessions_root() == root, "a later command finds it again"
    assert known_roots() == [root]


def test_the_predictable_name_is_used_where_it_can_be(shared: Path) -> None:
    assert known_roots() == []
    root = sessions_root()
    assert root == shared / f"nbray-{os.getuid()}"
    assert stat.S_IMODE(root.lstat().st_mode) == 0o700


def test_the_runtime_folder_comes_first_if_it_is_private_and_on_a_disk(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = shared / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    assert sessions_root() == runtime / "nbray"
    runtime.chmod(0o755)
    assert sessions_root() == shared / f"nbray-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/dev/shm")
    assert sessions_root() == shared / f"nbray-{os.getuid()}"


def test_sessions_are_found_in_every_folder_of_the_user(shared: Path) -> None:
    before = Session.create()
    (shared / f"nbray-{os.getuid()}").rename(shared / f"nbray-{os.getuid()}-old")
    (shared / f"nbray-{os.getuid()}").touch()
    assert before.path.name in {path.name for root in known_roots() for path in root.iterdir()}


def test_a_path_that_is_too_long_for_sockets_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / ("x" * 90)
    monkeypatch.setenv("NBRAY_TMPDIR", str(root))
    with pytest.raises(OSError, match=r"NBRAY_TMPDIR=.* has too long a path") as told:
        nbray.init(num_cpus=1)
    assert "\n" not in str(told.value)
    assert not root.exists()
    for said in (command("start", "--head", "--port=0"), command("status"), command("stop")):
        assert said.returncode == 1 and said.stderr.count("\n") == 1


# --- what a folder tells --------------------

OLD = {
    "gcs_address": "127.0.0.1:1", "node_ip": "127.0.0.1", "raylet_socket": "", "node_id": "",
    "pids": [1, 2], "dashboard": "", "dashboard_error": "", "fate_shared": False,
    "for_programs": True,
}  # fmt: skip
WHOLE = {**OLD, "start_ticks": [1, 1]}
BAD = {
    "empty": b"",
    "cut off": b'{"gcs_address": "127.0.0.1:1", "pi',
    "of an older version": json.dumps(OLD).encode(),
    "a list": b"[]",
    "a number": b"1e999",
    "binary": b"\x00\xff\xfe",
    "deep": b"[" * 100_000,
    "with the wrong types": json.dumps({**WHOLE, "pids": "1"}).encode(),
    "with a process too many": json.dumps({**WHOLE, "pids": [1, 2, 3]}).encode(),
    "with impossible pids": json.dumps({**WHOLE, "pids": [-1, 1 << 70]}).encode(),
}


def test_session_files_that_cannot_be_read_stop_nothing(session_root: Path) -> None:
    for number, data in enumerate(BAD.values()):
        folder = session_root / f"s9912312359{number:02}-deadbeef"
        folder.mkdir(mode=0o700)
        (folder / "session.json").write_bytes(data)
    unreadable = session_root / "s991231235999-deadbeef"
    (unreadable / "session.json").mkdir(parents=True)
    nbray.init(num_cpus=1, object_store_memory=32 * MB)
    told = command("status")
    assert told.returncode == 0, told.stderr
    assert len(told.stderr.splitlines()) == len(BAD), "one line for each but the impossible pids"
    assert all("is left out" in line for line in told.stderr.splitlines())
    assert command("list", "nodes").returncode == 0
    stopped = command("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1
    for folder in session_root.glob("s9912312359*"):
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        folder.rmdir()


@pytest.mark.parametrize("address", [None, "auto"])
def test_pids_that_are_somebody_elses_by_now_are_no_cluster(
    session_root: Path, address: str | None
) -> None:
    session = Session.create()
    # Its command line names the folder, as that of a `tail` of its logs does.
    other = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()", str(session.path)],
        stdin=subprocess.PIPE,
    )
    pids = [other.pid, psutil.Process().pid, 1]
    (session.path / "session.json").write_text(
        json.dumps({**OLD, "pids": pids, "start_ticks": [start_time(pid) - 1 for pid in pids]})
    )
    try:
        assert [node.processes for node in found_nodes()] == [[]]
        if address is None:
            nbray.init(num_cpus=1, object_store_memory=32 * MB)
            assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=30) == 1
            nbray.shutdown()
        else:
            with pytest.raises(ConnectionError, match="Could not find any running"):
                nbray.init(address)
        assert command("stop").stdout == "No node to stop.\n"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("files", [0, 1, 2, 3, 4])
def test_a_start_on_a_full_disk_says_so_and_leaves_nothing(
    session_root: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    disk = session_root / "d"
    disk.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(disk)], check=True
    )
    try:
        monkeypatch.setenv("NBRAY_TMPDIR", str(disk))
        with open(disk / "full", "wb", buffering=0) as file:
            file.write(bytes((os.statvfs(disk).f_bavail - files) * 4096))
        with pytest.raises(Exception, match=r"No space left|disk is full|disk I/O"):
            nbray.init(num_cpus=1, object_store_memory=32 * MB)
        assert [path.name for path in disk.iterdir()] == ["full"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
        disk.rmdir()


STARTS = """
import importlib, os, sys
from nbray.cli import main
from nbray.launcher import local

step, number = sys.argv[1], int(sys.argv[2])

def signalled(*_):
    os.kill(os.getpid(), number)

if step == "while they come up":
    importlib.import_module("nbray.cli.start")._import_console = signalled
else:
    setattr(local, step, signalled)
sys.argv = ["nbray", "start", "--head", "--port=0"]
main()
"""


def _start(step: str, number: signal.Signals) -> subprocess.Popen[bytes]:
    """``nbray start``, which gets a signal at that step."""
    return subprocess.Popen([sys.executable, "-c", STARTS, step, str(int(number))])


def _killed_start(step: str) -> None:
    assert _start(step, signal.SIGKILL).wait() == -signal.SIGKILL


def test_a_start_that_was_killed_in_the_middle_can_be_stopped(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _killed_start("_write_info")
    (folder,) = session_root.iterdir()
    assert any(folder.glob("sockets/raylet-*")) and not (folder / "session.json").exists()
    assert command("stop").returncode == 0
    assert not processes_of(session_root) and not list(session_root.iterdir())


def test_a_start_that_stands_still_is_no_start_that_was_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = _start("while they come up", signal.SIGSTOP)
    wait_until_still(start.pid)
    wait_until(lambda: running(home, "nbray.raylet"), "the raylet")
    assert command("stop").stdout == (
        f"Left alone: process {start.pid} is starting a node. Interrupt it, or stop the node then."
        "\n"
    ), "it may still be starting"
    monkeypatch.setenv("NBRAY_START_TIMEOUT_S", "0.01")
    assert command("stop").stdout == "Stopped 1 node(s).\n"
    start.kill()
    start.wait()
    assert not processes_of(home)


def test_a_start_that_was_killed_at_once_leaves_no_raylet(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _killed_start("while they come up")
    wait_until(lambda: not running(session_root, "nbray.raylet"), "the end of the raylet")
    assert command("stop").returncode == 0
    assert not processes_of(session_root) and not list(session_root.iterdir())


# --- the token --------------------


@pytest.mark.parametrize("token", ["", "a", " x ", "hunter2", "\u00e9", "0" * 15, "\n" * 40])
def test_a_token_that_can_be_guessed_is_refused(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", token)
    with pytest.raises(ValueError, match=r"NBRAY_AUTH_TOKEN has .*secrets.token_hex"):
        load_token(create=True)
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(token)
    monkeypatch.setenv("NBRAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.delenv("NBRAY_AUTH_TOKEN")
    with pytest.raises(ValueError, match=f"{path} has .*secrets.token_hex"):
        load_token(create=True)


def test_the_token_of_a_session_is_text_for_whoever_takes_it_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session.create()
    assert session.token.isalnum() and session.token.isascii()
    monkeypatch.delenv("NBRAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("NBRAY_AUTH_TOKEN_PATH", str(session.path / "token"))
    assert load_token(create=False) == session.token
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", session.token.decode())
    assert load_token(create=False) == session.token
    session.remove()


def test_a_token_that_nobody_guesses_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN_PATH", str(tmp_path / "new" / "token"))
    monkeypatch.delenv("NBRAY_AUTH_TOKEN", raising=False)
    made = load_token(create=True)
    assert len(made) == 64 and load_token(create=False) == made
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", "0" * 16)
    assert load_token(create=False) == b"0" * 16


def test_commands_that_make_the_token_at_once_have_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NBRAY_AUTH_TOKEN", raising=False)
    for number in range(20):
        path = tmp_path / str(number) / "token"
        monkeypatch.setenv("NBRAY_AUTH_TOKEN_PATH", str(path))
        with ThreadPoolExecutor(8) as threads:
            found = {
                made.result()
                for made in [threads.submit(load_token, create=True) for _ in range(8)]
            }
        assert found == {load_token(create=False)}
        assert [entry.name for entry in path.parent.iterdir()] == ["token"]


def test_a_weak_token_starts_no_cluster(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_AUTH_TOKEN", "hunter2")
    refused = command("start", "--head", "--port=0")
    assert refused.returncode == 1
    assert "can be guessed" in refused.stderr and "hunter2" not in refused.stderr
