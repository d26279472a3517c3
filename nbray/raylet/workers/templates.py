"""Template processes: single-threaded parents, of which the workers are forks."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nbray.common.json_lines import JsonLines
from nbray.common.process import OwnFork, ends_within
from nbray.common.session import Session
from nbray.common.thread_count import own_thread_variables

logger = logging.getLogger(__name__)

MODULE = "nbray.core_worker.run.template"
_END_S = 2.0
Report = dict[str, Any]


class ForkedTemplate(NamedTuple):
    """A template that was forked instead of started, with this side's end of its control socket."""

    pid: int
    control: int


def log_of(session: Session, python: str = "") -> Path:
    """Where the template of this interpreter, by default the raylet's own, writes its log."""
    return session.log_path(f"template-{os.urandom(4).hex()}.log" if python else "template.log")


def arguments_of(session: Session, control: int) -> list[str]:
    """What a template is called with, whose end of the control socket is ``control``."""
    own = ["--session-dir", str(session.path), "--control-fd", str(control)]
    return [*own, "--preload", "nbray.public"]


def environment_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a template whose raylet has these."""
    variables = dict(environment)
    variables.pop("NBRAY_STORAGE", None)  # it may hold a password, which is no matter of tasks
    return variables | own_thread_variables(variables)


class Template:
    """One template, started by the command ``python`` (empty: the raylet's own interpreter).

    It may have been ``forked`` already. ``on_report`` gets what it says of its forks, ``on_end``
    hears when it ended by itself. Neither side waits for the other: what the socket does not take
    stays in a buffer.

    Attributes:
        serves: it has said that it is ready, and forks.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self, session: Session, python: str,
        on_report: Callable[[Template, Report], None], on_end: Callable[[Template], None],
        forked: ForkedTemplate | None = None,
    ) -> None:  # fmt: skip
        self.python = python
        self.used = time.monotonic()
        self.log = log_of(session, python)
        self._on_report = on_report
        self._on_end = on_end
        self.serves = False
        self._process: subprocess.Popen[bytes] | OwnFork
        if forked is None:
            self._process, control = _started(session, python, self.log)
        else:
            self._process, control = OwnFork(forked.pid), socket.socket(fileno=forked.control)
        self._control = JsonLines(control)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._read)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def was_killed(self) -> bool:
        """Whether somebody has killed it, as the kernel does when memory is short."""
        return self._process.returncode == -signal.SIGKILL

    def fork(self, order: Report) -> None:
        """Have it fork a worker, as soon as it listens."""
        self._control.send(order)
        if self._control.is_waiting:
            self._loop.add_writer(self._control.socket.fileno(), self._write)

    def _write(self) -> None:
        self._control.flush()
        if not self._control.is_waiting:
            self._loop.remove_writer(self._control.socket.fileno())

    def _read(self) -> None:
        reports = self._control.receive()
        if reports is None:
            self.stop()
            self._on_end(self)
            return
        for report in reports:
            self.serves = self.serves or "ready" in report
            try:
                self._on_report(self, report)
            except Exception:  # the next one may tell of a death for which somebody waits
                logger.exception("A report of the template was not handled: %s", report)

    def stop(self) -> bool:
        """End it, and its workers with it; kill it when it does not listen, or only imports yet.

        Returns whether it has ended them, with all that they had started.
        """
        descriptor = self._control.socket.fileno()
        if descriptor < 0:
            return False
        self._loop.remove_reader(descriptor)
        self._loop.remove_writer(descriptor)
        may_have_forked = self._may_have_forked()
        self._control.socket.close()
        if may_have_forked and ends_within(self._process, _END_S):
            return self._process.returncode == 0
        self.kill()
        self._process.wait()
        return False

    def _may_have_forked(self) -> bool:
        """Whether it has said that it is ready. If it has not, it cannot any more, and leaves."""
        if not self.serves:
            self._control.socket.shutdown(socket.SHUT_RD)  # what was said before is still there
            self.serves = bool(self._control.receive())
        return self.serves

    def kill(self) -> None:
        """End it at once; its workers live on, without a parent who tells how they end."""
        self._process.kill()


def _started(
    session: Session, python: str, log: Path
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    mine, theirs = socket.socketpair()
    try:
        with open(log, "ab") as output:
            process = subprocess.Popen(
                [
                    *(shlex.split(python) or [sys.executable]), "-P", "-m", MODULE,
                    *arguments_of(session, theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, env=environment_of(os.environ),
            )  # fmt: skip
    except OSError:
        mine.close()
        raise
    finally:
        theirs.close()
    return process, mine
