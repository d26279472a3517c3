"""An actor ends by its own wish: `exit_actor` and ``sys.exit`` in whatever of its code."""

from __future__ import annotations

import asyncio
import atexit
import errno
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.actor import exit_actor
from nbray.exceptions import ActorDiedError
from nbray.testing import wait_until
from nbray.util.state import list_actors


def leave(how: Any) -> Any:
    if how == "exit_actor":
        exit_actor()
    if how == "caught":
        try:
            exit_actor()
        except SystemExit:
            return "caught"
    sys.exit(how)


class Leaves:
    """Leaves in its constructor, or in a method, the first two times; it counts in files."""

    def __init__(self, folder: Path, leaves: Any = None) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        atexit.register((folder / f"atexit-{time.time_ns()}").touch)
        if leaves is not None and self.begins() < 3:
            leave(leaves[0])

    def begins(self) -> int:
        (self.folder / f"began-{time.time_ns()}").touch()
        return len(list(self.folder.glob("began-*")))

    def method(self, how: Any) -> str:
        return leave(how) if self.begins() < 3 else "third"

    def in_thread(self) -> str:
        thread = threading.Thread(target=exit_actor)
        thread.start()
        thread.join()
        return "answered"

    def ping(self) -> str:
        return "pong"


class AsyncLeaves(Leaves):
    async def method(self, how: Any) -> str:
        return leave(how) if self.begins() < 3 else "third"

    async def in_background(self, how: Any) -> None:
        self.task = asyncio.create_task(self.method(how))

    async def waits(self, folder: Path) -> str:
        (folder / "waits").touch()
        while not (folder / "go on").exists():
            await asyncio.sleep(0.01)
        return "done"


KINDS: dict[str, Any] = {
    "sync": nbray.remote(num_cpus=0)(Leaves),
    "threaded": nbray.remote(num_cpus=0, max_concurrency=2)(Leaves),
    "async": nbray.remote(num_cpus=0)(AsyncLeaves),
}


def died(ref: nbray.ObjectRef) -> str:
    with pytest.raises(ActorDiedError) as raised:
        nbray.get(ref, timeout=60)
    return str(raised.value)


def ran_at_the_end(folder: Path, times: int) -> None:
    wait_until(lambda: len(list(folder.glob("atexit-*"))) == times, f"atexit, {times} times")


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_that_was_meant_is_for_good_and_any_other_is_a_crash(
    cluster: Path, tmp_path: Path, kind: str
) -> None:
    again = KINDS[kind].options(max_restarts=2, max_task_retries=2)
    kept = []  # all are made, and called, before the first is asked

    def both(name: str, how: Any, options: Any = again) -> list[tuple[Path, nbray.ObjectRef]]:
        """One that leaves in a method, and one in its constructor."""
        folders = [tmp_path / f"{name} {part}" for part in ("method", "constructor")]
        in_method, in_constructor = options.remote(folders[0]), options.remote(folders[1], [how])
        kept.extend([in_method, in_constructor])
        return list(
            zip(folders, [in_method.method.remote(how), in_constructor.ping.remote()], strict=True)
        )

    meant = {how: both(f"meant {how}", how) for how in ("exit_actor", "caught", 0)}
    crashes = [both(f"crash {how}", how) for how in (1, None, "farewell", 2**70)]
    told = {how: both(f"told {how}", how, KINDS[kind]) for how in (3, "farewell")}
    for how, ends in meant.items():
        for folder, ref in ends:
            text = died(ref)
            assert ("exits with an exit code 0" if how == 0 else "exit_actor() is called") in text
            assert "creation task" not in text
            ran_at_the_end(folder, 1)
    for (folder, third), (other, pong) in crashes:
        assert nbray.get([third, pong], timeout=60) == ["third", "pong"]
        ran_at_the_end(folder, 2)
        ran_at_the_end(other, 2)
    for how, ends in told.items():
        for _, ref in ends:
            assert ("exit status 3" if how == 3 else how) in died(ref)


class FullDisk:
    """In the place of a stream."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    flush = write


class Untold:
    def __str__(self) -> str:
        raise ZeroDivisionError


class Careless:
    def leave(self, stream: Any, how: Any) -> Any:
        if stream is not sys:
            sys.stdout = sys.stderr = stream
        leave(how)

    def ping(self) -> str:
        return "pong"


def test_an_actor_ends_whatever_it_has_made_of_its_streams(cluster: Path) -> None:
    cases = (None, "exit_actor"), (FullDisk(), "exit_actor"), (None, 3), (sys, Untold())
    actors = [nbray.remote(num_cpus=0)(Careless).remote() for _ in cases]
    leaving = [
        actor.leave.remote(stream, how) for actor, (stream, how) in zip(actors, cases, strict=True)
    ]
    behind = [actor.ping.remote() for actor in actors]
    assert all(map(died, [*leaving, *behind]))


def test_what_runs_in_the_background_may_end_its_actor_and_running_calls_are_answered(
    cluster: Path, tmp_path: Path
) -> None:
    for kind in KINDS:
        actor = KINDS[kind].options(max_restarts=2).remote(tmp_path / f"thread {kind}")
        assert nbray.get(actor.in_thread.remote(), timeout=60) == "answered"
        assert "exit_actor() is called" in died(actor.ping.remote())
    for how in ("exit_actor", 0):
        actor = KINDS["async"].options(max_restarts=2).remote(tmp_path / f"background {how}")
        nbray.get(actor.in_background.remote(how), timeout=60)
        wait_until(
            lambda actor=actor: (
                list_actors(filters=[("actor_id", "=", actor._actor_id.hex())])[0].state == "DEAD"
            ),
            f"the end of the actor: {how}",
        )

    folder = tmp_path / "waits"
    actor = KINDS["async"].remote(folder)
    answered = actor.waits.remote(folder)
    wait_until(lambda: (folder / "waits").exists(), "the call that runs")
    leaves, comes_too_late = actor.method.remote("exit_actor"), actor.ping.remote()
    (folder / "go on").touch()
    assert nbray.get(answered, timeout=60) == "done"
    assert "exit_actor() is called" in died(leaves)
    assert "exit_actor() is called" in died(comes_too_late)
    with pytest.raises(TypeError, match="non-actor"):
        exit_actor()
