"""What user code prints in a worker: kept in the worker's log and sent to its driver."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from nbray.core_worker.context import running
from nbray.core_worker.core import CoreWorker
from nbray.wire.messages import OutputLines


class TaskOutput(io.TextIOBase):
    """A text stream that sends complete lines to the driver, tagged with their task."""

    def __init__(self, core: CoreWorker, stream: str, log: TextIO) -> None:
        self._core = core
        self._stream = stream
        self._log = log
        self._pending = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(text)
        self._pending += text
        if "\n" in self._pending:
            lines, _, self._pending = self._pending.rpartition("\n")
            self._send(lines + "\n")
        return len(text)

    def flush(self) -> None:
        self._log.flush()
        if self._pending:
            text, self._pending = self._pending, ""
            self._send(text)

    def fileno(self) -> int:
        return self._log.fileno()

    def _send(self, text: str) -> None:
        core, task = self._core, running.get()
        if task is None:
            return
        message = OutputLines(
            self._stream, text, os.getpid(), core.address.node_id, task.task_id, task.name
        )
        core.reactor.post(lambda: core.peers.connect(core.job.driver).send(message))


def capture_output(core: CoreWorker) -> None:
    """Send what is printed from now on."""
    sys.stdout = TaskOutput(core, "stdout", sys.stdout)
    sys.stderr = TaskOutput(core, "stderr", sys.stderr)
