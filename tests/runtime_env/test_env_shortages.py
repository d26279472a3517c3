"""Environments for which the node or the GCS has no descriptor: they are set up after that."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.descriptors import no_file_left

import nbray
from nbray.core_worker.current import joined_core
from nbray.driver.joining import find_session
from nbray.testing import wait_until

GCS, RAYLET = 0, 1


@nbray.remote
def read() -> str:
    return Path("a.txt").read_text()


@nbray.remote
class Reader:
    def read(self) -> str:
        return Path("a.txt").read_text()

    def add(self, number: int) -> int:
        return number + 1


def was_tried(text: str, ref: nbray.ObjectRef) -> bool:
    log = joined_core().session.log_path("raylet.log").read_text()
    return text in log or bool(nbray.wait([ref], timeout=0)[0])


@pytest.fixture
def warm(cluster: Path) -> Reader:
    """An actor: GCS and raylet are connected."""
    actor = Reader.remote()
    assert nbray.get(actor.add.remote(1), timeout=60) == 2
    return actor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    (made / "a.txt").write_text("brought")
    return made


@pytest.mark.parametrize("ask", [read.options, Reader.options], ids=["task", "actor"])
@pytest.mark.parametrize("who", [GCS, RAYLET], ids=["gcs", "raylet"])
def test_a_package_is_brought_when_there_are_descriptors_again(
    warm: Reader, folder: Path, who: int, ask: Callable[..., object]
) -> None:
    asked: object = ask(runtime_env={"working_dir": str(folder)})
    with no_file_left(find_session("auto")[1]["pids"][who]):
        made = asked.remote()  # type: ignore[attr-defined]
        ref = made if isinstance(made, nbray.ObjectRef) else made.read.remote()
        wait_until(lambda: was_tried("is not set up yet", ref), "a first attempt")
    assert nbray.get(ref, timeout=60) == "brought"


def test_an_interpreter_is_started_when_there_are_descriptors_again(
    warm: Reader,
) -> None:
    """Not at a limit that workers alone could have reached: of that, its owner is told."""
    pid = find_session("auto")[1]["pids"][RAYLET]
    taken = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    most = next(number for number in itertools.count(9) if number not in taken)
    with no_file_left(pid, most):
        other = Reader.options(runtime_env={"py_executable": sys.executable}).remote()
        ref = other.add.remote(1)
        wait_until(lambda: was_tried("interpreter was not started", ref), "a first attempt")
    assert nbray.get(ref, timeout=60) == 2
