"""The door of a keeper: a detached actor that starts it, and passes on what notebooks ask of it.

Door and keeper end together: the keeper is a child of the actor's process, and the actor leaves
when the keeper has ended, which leaves when it has nothing to run and owns nothing (`leave`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from nbray.notebook import engine

SPACE = "nbray.detached"
"""The namespace in which doors have names."""
_GIVE_UP_S = 60.0
_MOST_OF_LOG = 4000
_MOST_OF_LINE = 300


class KeeperEndedError(RuntimeError):
    """The keeper has left, or its process has ended."""


class Door:
    """Its methods are coroutines of one loop. ``engine_name``: which engine the keeper uses."""

    def __init__(self, engine_name: str, namespace: str) -> None:
        self._engine = engine_name
        self._namespace = namespace
        self._orders: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0
        self._ended = ""
        self._has_left = False
        self._watch: asyncio.Task[None] | None = None

    async def ask(self, order: Any) -> Any:
        """Have the keeper do something; returns what it answers.

        Raises:
            KeeperEndedError: it has ended, or ends meanwhile.
            ValueError: it cannot do that.
        """
        if self._watch is None:
            self._watch = asyncio.get_running_loop().create_task(self._keep())
        if self._ended:
            raise KeeperEndedError(self._ended)
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((self._count, order))
        return await answer

    async def take(self) -> list[tuple[int, Any]]:
        """The keeper waits for something to do."""
        found = [await self._orders.get()]
        while not self._orders.empty():
            found.append(self._orders.get_nowait())
        return found

    async def answer(self, number: int, value: Any, error: str = "") -> None:
        """The keeper has done it, or says why not."""
        waiting = self._answers.pop(number, None)
        if waiting is None or waiting.done():
            return
        if error:
            waiting.set_exception(ValueError(error))
        else:
            waiting.set_result(value)

    async def leave(self) -> bool:
        """The keeper would like to leave: True if nobody has asked for anything meanwhile."""
        if self._answers or not self._orders.empty():
            return False
        self._ended = "it had nothing to keep and has left"
        self._has_left = True
        return True

    async def _keep(self) -> None:
        """Run the keeper to its end, which is this actor's."""
        try:
            self._ended = await self._run() or self._ended
        except Exception as error:  # whoever asks is told
            self._ended = f"it could not be started: {type(error).__name__}: {error}"
        if not self._has_left:
            await self._give_up()
        for waiting in self._answers.values():
            if not waiting.done():  # whoever asked has given up
                waiting.set_exception(KeeperEndedError(self._ended))
        await asyncio.sleep(1.0)  # the answers go first
        os._exit(0)

    async def _run(self) -> str:
        """Start the keeper and wait for its end; returns why it ended, if it did not say so."""
        log, process = await self._start()
        code = await process.wait()
        if self._has_left:
            return ""
        last = _last_line(log) if code > 0 else ""  # what a signal ended has said nothing of it
        why = f": {last}" if last else ""
        return f"its process ended with code {code}{why} ({log} may say more)"

    async def _give_up(self) -> None:
        """Have another process store what became of the cells: here not all of nbray need be."""
        with contextlib.suppress(OSError, TimeoutError):  # else they are seen to be lost
            _log, process = await self._start(self._ended)
            await asyncio.wait_for(process.wait(), _GIVE_UP_S)

    async def _start(self, *words: str) -> tuple[Path, asyncio.subprocess.Process]:
        """Start a keeper's process; returns its log with it."""
        here = engine().api.get_runtime_context()
        log = engine().cluster.logs() / f"keeper-{str(here.get_actor_id())[:12]}.log"
        with open(log, "ab") as out:
            return log, await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nbray.jupyter_ext.kept", self._engine, here.gcs_address,
                self._namespace, str(here.get_actor_name()), str(here.get_actor_id()),
                str(log), *words,
                stdin=asyncio.subprocess.PIPE,  # closes with this process, and the keeper leaves
                stdout=out, stderr=out, env={**os.environ, **engine().cluster.for_programs()},
            )  # fmt: skip


def _last_line(log: Path) -> str:
    """What was written last, as far as that is a line of words."""
    with contextlib.suppress(OSError):
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _MOST_OF_LOG))
            lines = file.read().decode(errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_MOST_OF_LINE]
    return ""
