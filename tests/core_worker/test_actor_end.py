"""What an actor runs when it ends: by its own wish, out of scope, killed, or too slowly."""

from __future__ import annotations

import atexit
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.actor import exit_actor
from nbray.testing import wait_until

ALL = {"shutdown", "del", "atexit"}


@nbray.remote
class Marks:
    """Leaves a file for each thing that runs at its end."""

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        self.folder = folder
        self.seconds = seconds
        atexit.register((folder / "atexit").touch)

    def __ray_shutdown__(self) -> None:
        (self.folder / "began").touch()
        time.sleep(self.seconds)
        (self.folder / "shutdown").touch()

    def __del__(self) -> None:
        (self.folder / "del").touch()

    def is_there(self) -> bool:
        return True

    def leave(self) -> None:
        exit_actor()


@nbray.remote
class AsyncMarks:
    """The same of coroutines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        atexit.register((folder / "atexit").touch)

    async def __ray_shutdown__(self) -> None:
        (self.folder / "shutdown").touch()

    def __del__(self) -> None:
        (self.folder / "del").touch()

    async def is_there(self) -> bool:
        return True

    async def leave(self) -> None:
        exit_actor()


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def end_by_scope(actors: list[Any]) -> None:
    actors.clear()
    gc.collect()


ENDS: dict[str, Callable[[list[Any]], Any]] = {
    "out of scope": end_by_scope,
    "exit_actor": lambda actors: actors[0].leave.remote(),
    "__ray_terminate__": lambda actors: actors[0].__ray_terminate__.remote(),
}


@pytest.mark.parametrize("kind", [Marks, AsyncMarks, Marks.options(max_concurrency=2)])
def test_a_graceful_end_runs_what_is_to_run_then(cluster: Path, tmp_path: Path, kind: Any) -> None:
    for name, end in ENDS.items():
        folder = tmp_path / name
        folder.mkdir()
        actors = [kind.remote(folder)]
        assert nbray.get(actors[0].is_there.remote(), timeout=30)
        end(actors)
        wait_until(lambda folder=folder: files(folder) >= ALL, f"all that runs at the end: {name}")


def test_kill_runs_nothing_and_what_takes_too_long_is_killed(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_GRACEFUL_EXIT_S", "2")
    nbray.init(num_cpus=2)
    killed, slow = tmp_path / "killed", tmp_path / "slow"
    killed.mkdir()
    slow.mkdir()
    actor = Marks.options(num_cpus=2).remote(killed)
    assert nbray.get(actor.is_there.remote(), timeout=30)
    nbray.kill(actor)
    actors = [Marks.options(num_cpus=2).remote(slow, 60.0)]  # when the killed one has gone
    assert nbray.get(actors[0].is_there.remote(), timeout=30)
    assert not files(killed)
    end_by_scope(actors)
    wait_until(lambda: "began" in files(slow), "the start of its end")
    last = Marks.options(num_cpus=2).remote(killed)  # when the slow one has gone
    assert nbray.get(last.is_there.remote(), timeout=30)
    assert files(slow) == {"began"}
