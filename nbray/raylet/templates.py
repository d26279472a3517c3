"""Template processes: single-threaded parents, of which the workers are forks."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from nbray.common.session import Session

_END_S = 5.0
Report = dict[str, Any]


class Template:
    """One template, started by the command ``python`` (empty: the raylet's own interpreter).

    ``on_report`` gets what it says of its forks, ``on_end`` hears when it ended by itself.
    """

    def __init__(
        self, session: Session, socket_path: str, python: str,
        on_report: Callable[[Report], None], on_end: Callable[[Template], None],
    ) -> None:  # fmt: skip
        self.python = python
        self.used = time.monotonic()
        self.log = session.log_path(f"template-{os.urandom(4).hex()}.log" if python else
                                    "template.log")  # fmt: skip
        self._on_report = on_report
        self._on_end = on_end
        self._input = b""
        mine, theirs = socket.socketpair()
        env = dict(os.environ)
        env.pop("NBRAY_STORAGE", None)  # it may hold a password, which is no matter of tasks
        for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            env.setdefault(name, "1")
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [
                    *(shlex.split(python) or [sys.executable]), "-m", "nbray.core_worker.template",
                    "--session-dir", str(session.path),
                    "--raylet-socket", socket_path,
                    "--control-fd", str(theirs.fileno()),
                ],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env=env,
            )  # fmt: skip
        theirs.close()
        mine.setblocking(False)
        self._control = mine
        asyncio.get_running_loop().add_reader(mine.fileno(), self._read)

    def fork(self, order: Report) -> None:
        """Have it fork a worker."""
        self._control.sendall(json.dumps(order).encode() + b"\n")

    def _read(self) -> None:
        try:
            data = self._control.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self._control.fileno())
            self._on_end(self)
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._on_report(json.loads(line))

    def stop(self) -> None:
        """End it; its workers leave with it, since their raylet does."""
        asyncio.get_running_loop().remove_reader(self._control.fileno())
        self._control.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
