"""What lies in the current folder is the user's: the cluster's own processes import none of it."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest

from nbray.common.importing import current_folder_last
from nbray.common.process import environment

# Each shadows a module that one of the processes imports, at its start or when it needs it.
SHADOWS = (
    "calendar", "copy", "email", "grpc", "http", "inspect", "logging", "msgspec", "numbers",
    "numpy", "platform", "psutil", "queue", "random", "secrets", "select", "signal", "socket",
    "statistics", "string", "struct", "token", "types", "uvloop", "yaml",
)  # fmt: skip
PROGRAM = """
import os, sys, nbray             # as a kernel does: it puts the folder into sys.path later
sys.path.insert(0, "")
os.environ["PYTHONPATH"] = ":"    # as `export PYTHONPATH=$PYTHONPATH:` leaves it
nbray.init(num_cpus=1, object_store_memory=64 << 20)
import beside
@nbray.remote
def task():
    import beside
    return beside.VALUE
print(*nbray.get([task.remote(), nbray.remote(beside.task).remote()], timeout=60))
nbray.shutdown()
"""


@pytest.fixture
def folder(session_root: Path, tmp_path: Path) -> Path:
    """A folder with a module that tasks want, and many that nobody may import."""
    (tmp_path / "beside.py").write_text("VALUE = 7\ndef task():\n    return VALUE\n")
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(
            "import os, sys\n"
            f"open({str(tmp_path)!r} + '/ran-{name}-' + str(os.getpid()), 'w').write(' '.join("
            "sys.orig_argv))\n"
            "raise SystemExit('a file of the current folder was imported')\n"
        )
    return tmp_path


def test_files_of_the_current_folder_do_not_run_in_the_cluster(folder: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], cwd=folder,
        capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert ended.stdout.split() == ["7", "7"], ended.stderr
    ran = [path.read_text() for path in folder.glob("ran-*")]
    assert not ran, ran


def test_other_threads_import_from_the_current_folder_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lies_here.py").write_text("VALUE = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    with current_folder_last(), ThreadPoolExecutor(1) as other:
        assert other.submit(import_module, "lies_here").result().VALUE == 7
        del sys.modules["lies_here"]
        assert import_module("lies_here").VALUE == 7  # last, but it is found
    del sys.modules["lies_here"]


def test_an_empty_entry_of_pythonpath_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ":/a::/b:")
    assert environment()["PYTHONPATH"] == "/a:/b"
    monkeypatch.setenv("PYTHONPATH", ":")
    assert "PYTHONPATH" not in environment()


REMOVED = """
import os, sys
folder = os.getcwd()
os.rmdir(folder)
import nbray
nbray.init(num_cpus=1, object_store_memory=64 << 20)
@nbray.remote
def task():
    return 7
print(nbray.get(task.remote(), timeout=60))
try:
    task.options(runtime_env={"working_dir": "."}).remote()
except ValueError as error:
    print(error)
nbray.shutdown()
"""


@pytest.mark.skipif(
    sys.version_info[:3] == (3, 13, 0), reason="Python 3.13.0 imports no socket in such a folder"
)
def test_a_program_whose_folder_was_removed_runs_and_a_path_relative_to_it_is_refused(
    session_root: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", REMOVED], cwd=folder, capture_output=True, text=True, timeout=120,
        env=environment() | {"NBRAY_TMPDIR": str(session_root)},
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "7",
        "The path '.' is relative to the current folder, which was removed: say it from the root, "
        "or change into a folder that is there.",
    ], done.stderr
