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
from collections.abc import Callable
from typing import Any

from nbray.common.json_lines import JsonLines
from nbray.common.process import ends_within
from nbray.common.session import Session
from nbray.common.thread_count import own_thread_variables

logger = logging.getLogger(__name__)

_END_S = 2.0
Report = dict[str, Any]


class Template:
    """One template, started by the command ``python`` (empty: the raylet's own interpreter).

    ``on_report`` gets what it says of its forks, ``on_end`` hears when it ended by itself. Neither
    side waits for the other: what the socket does not take stays in a buffer.

    Attributes:
        serves: it has said that it is ready, and forks.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(
        self, session: Session, socket_path: str, python: str,
        on_report: Callable[[Template, Report], None], on_end: Callable[[Template], None],
    ) -> None:  # fmt: skip
        self.python = python
        self.used = time.monotonic()
        self.log = session.log_path(f"template-{os.urandom(4).hex()}.log" if python else
                                    "template.log")  # fmt: skip
        self._on_report = on_report
        self._on_end = on_end
        self.serves = False
        mine, theirs = socket.socketpair()
        env = dict(os.environ)
        env.pop("NBRAY_STORAGE", None)  # it may hold a password, which is no matter of tasks
        env.update(own_thread_variables(env))
        try:
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    [
                        *(shlex.split(python) or [sys.executable]),
                        "-P", "-m", "nbray.core_worker.run.template",
                        "--session-dir", str(session.path),
                        "--raylet-socket", socket_path,
                        "--control-fd", str(theirs.fileno()), "--preload", "nbray.public",
                    ],
                    pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, env=env,
                )  # fmt: skip
        except OSError:
            mine.close()
            raise
        finally:
            theirs.close()
        self._control = JsonLines(mine)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(mine.fileno(), self._read)

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
