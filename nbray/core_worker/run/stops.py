"""A task that stops: at `breakpoint()`, or where it failed if its notebook wants to look there.

The person's commands come from the cell that submitted it and run here, in the task's own thread.
The worker waits for `debug_wait_s` for each of them, and as long as its driver lives.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Literal

from nbray.common.config import Config
from nbray.core_worker.context import TaskContext, running
from nbray.core_worker.identity import Identity
from nbray.core_worker.run.asides import Asides
from nbray.debugging.taking import users_frames
from nbray.debugging.talk import STOPPED, Stopped, encode, read_command

if TYPE_CHECKING:
    from nbray.debugging.remote_pdb import RemotePdb

_WHY = {"breakpoint": "is at a breakpoint", "failure": "has failed"}


class Stops:
    """The stops of one worker."""

    def __init__(
        self, config: Config, me: Identity, asides: Asides, is_cancelled: Callable[[bytes], bool]
    ) -> None:
        """``is_cancelled``: whether a task is to end."""
        self._patience_s = config.debug_wait_s
        self._me = me
        self._asides = asides
        self._is_cancelled = is_cancelled
        self._numbers = itertools.count(1)
        self._pid = os.getpid()

    def at_breakpoint(self, frame: FrameType) -> None:
        """`breakpoint()` was called in ``frame``."""
        task = running.get() or self._me.newest_task
        if task is None or not task.origin or os.getpid() != self._pid:
            print(_passed_over(frame, os.getpid() != self._pid), file=sys.stderr, flush=True)
            return
        self._debugger(task, "breakpoint").stop_at(frame)

    def at_failure(self, tb: TracebackType | None) -> None:
        """A task failed whose notebook wants to look."""
        task, tb = running.get(), users_frames(tb)
        if tb is not None and task is not None:
            self._debugger(task, "failure").walk(tb)

    def _debugger(self, task: TaskContext, why: Literal["breakpoint", "failure"]) -> RemotePdb:
        from nbray.debugging.remote_pdb import RemotePdb  # few workers need pdb

        number = next(self._numbers)
        title = f"{task.name} (pid {self._pid}) {_WHY[why]}"

        def ask(text: str, prompt: str) -> str | None:
            answer = self._asides.ask(
                STOPPED,
                lambda question: encode(Stopped(number, question, why, title, text, prompt)),
                self._patience_s,
                lambda: not self._is_cancelled(task.task_id),
            )
            if answer:
                return read_command(answer).line
            if not self._is_cancelled(task.task_id):
                print(f"{title}: nobody is there to look, so it goes on.", file=sys.stderr)
            return None

        def ended(text: str, reason: str) -> None:
            message = Stopped(number, 0, why, title, text, ended=reason)
            self._asides.tell(STOPPED, encode(message))

        return RemotePdb(ask, ended)


def _passed_over(frame: FrameType, in_fork: bool) -> str:
    where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
    if in_fork:
        why = "a process that a task has forked cannot be reached"
    else:
        why = "its program is no notebook with %load_ext nbray, so there is no keyboard"
    return f"breakpoint() at {where} is passed over: {why}."


def install(stops: Stops) -> None:
    """Let `breakpoint()` stop here, unless ``PYTHONBREAKPOINT`` says something else."""

    def hook(*args: Any, **options: Any) -> Any:
        if os.environ.get("PYTHONBREAKPOINT"):
            return sys.__breakpointhook__(*args, **options)
        stops.at_breakpoint(sys._getframe(1))
        return None

    sys.breakpointhook = hook
