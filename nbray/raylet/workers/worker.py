"""One worker process, as its raylet knows it: who it is, what it is for, how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nbray.common.accelerators import DeviceIds
from nbray.common.log_files import Log
from nbray.common.pids import open_process, start_time
from nbray.raylet.exits import Exit
from nbray.raylet.workers.templates import Template
from nbray.raylet.workers.worker_life import TRANSITIONS, Event, State
from nbray.runtime_env.setup import Prepared
from nbray.wire.aio import FrameConnection
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import Address

logger = logging.getLogger(__name__)

_LOG_TAIL_BYTES = 16 << 10


class Here(NamedTuple):
    """The node of a process, and its name for people."""

    node_id: bytes
    name: str


@dataclass(eq=False)
class Worker:
    """One worker process.

    ``template`` is its parent, None when that has gone; ``begun`` when it was ordered, ``ordered``
    when its start came so far.
    ``devices`` are those that it has used, if any: libraries look for them once in a process.
    ``pid`` and ``started`` (as `start_time` tells) are 0 until it is forked. ``exit`` is why it was
    ended or leaves, if anybody said so, ``status`` what its parent knows of its end. One that is
    ``doomed`` was to be killed before there was a descriptor of it.
    """

    worker_id: bytes
    log: str
    env: Prepared
    state: State = State.STARTING
    story: list[str] = field(default_factory=list)
    template: Template | None = None
    begun: float = 0.0
    ordered: float = 0.0
    pid: int = 0
    started: int = 0
    address: Address | None = None
    connection: FrameConnection | None = None
    job_id: bytes = b""
    devices: DeviceIds = ()
    actor_id: bytes = b""
    made_actors: bool = False
    worn: bool = False
    stays_until: float = 0.0
    last_lines: str = ""
    written: int = 0
    out_of_memory: Cause | None = None
    exit: Exit | None = None
    status: int | None = None
    peak_bytes: int = 0
    descriptor: int | None = None
    doomed: bool = False

    def move(self, event: Event, detail: str = "") -> None:
        """Something happens to it; see `worker_life`."""
        TRANSITIONS.move(self, event, time.time(), detail, f"Worker {self.worker_id.hex()[:12]}")

    def cause(self, node: Here) -> Cause:
        """Why it ended on that node, with the last lines that it wrote to stderr."""
        status = self.status
        ended_by, exit_status, how = 0, None, ", nobody can say how"
        if status is not None and os.WIFSIGNALED(status):
            ended_by = os.WTERMSIG(status)
            how = f" with signal {signal.Signals(ended_by).name}"
        elif status is not None:
            exit_status = os.WEXITSTATUS(status)
            how = f" with exit status {exit_status}"
        peak = f", {self.peak_bytes >> 20} MB peak" if self.peak_bytes else ""
        memory = self.out_of_memory
        if memory is not None:
            kind, text, again = memory.kind, memory.text, memory.again
        else:
            text = f"worker pid {self.pid} ended{how}{peak}, on {node.name}"
            kind, again = CauseKind.ENDED, False
        return Cause(
            kind, text, self.pid, node.node_id, ended_by, exit_status, self.peak_bytes,
            self.last_lines, again,
        )  # fmt: skip

    def given_back(self) -> None:
        """Whoever had it has done with it: what it has written is no news for the next."""
        self.written = _size(self.log + ".err")

    def read_last_lines(self) -> None:
        """Take what it wrote last to stderr, for whoever had it then.

        Who was told to end and wrote nothing is not asked about: to look for older pieces of its
        log takes a millisecond in a folder with the logs of a thousand workers.
        """
        if self.exit is not None and not _size(self.log + ".err"):
            return
        self.last_lines = last_lines(self.log + ".err", self.written)

    def watch(self, on_end: Callable[[Worker], None]) -> bool:
        """Have ``on_end`` hear of its end from the kernel, whatever becomes of its parent.

        Returns:
            False if it has ended already.

        Raises:
            OSError: no descriptor is left.
        """
        if self.descriptor is not None:
            return True
        self.started = self.started or start_time(self.pid)
        self.descriptor = open_process(self.pid, self.started)
        if self.descriptor is None:
            return False
        loop = asyncio.get_running_loop()

        def ended() -> None:
            if self.descriptor is not None:
                loop.remove_reader(self.descriptor)
            on_end(self)

        loop.add_reader(self.descriptor, ended)
        if self.doomed:
            self.kill()
        return True

    def kill(self) -> None:
        """End it at once, or as soon as it is watched: its pid may be somebody else's by now."""
        if self.descriptor is None:
            self.doomed = True
            return
        try:
            signal.pidfd_send_signal(self.descriptor, signal.SIGKILL)
        except ProcessLookupError:
            logger.debug("Worker pid %d had ended already.", self.pid)

    def gone(self) -> None:
        """It has ended: let go of what is kept of the process."""
        self.move(Event.GONE)
        if self.descriptor is not None:
            asyncio.get_running_loop().remove_reader(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = None


def _size(path: str) -> int:
    """Of a file; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0


def last_lines(path: str, since: int = 0, most: int = 20) -> str:
    """The end of a log; nothing if there is none, or nothing but its first ``since`` bytes."""
    try:
        data = Log(Path(path)).tail(_LOG_TAIL_BYTES)
    except OSError as error:  # no descriptor is left: what ended is told of all the same
        logger.warning("The log %s is not read: %s", path, error)
        return ""
    new = _size(path) - since
    if since and new >= 0:  # else it was rotated meanwhile
        data = data[max(0, len(data) - new) :]
    lines = data.splitlines(keepends=True)[-most:]
    return b"".join(lines).decode(errors="replace")
