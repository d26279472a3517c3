"""Starting processes: the one place that says what dies with what.

A child is exec'ed in a session of its own, so that no interrupt of the starter's terminal or
kernel reaches it. It tells that it is ready, or why it cannot be, by one JSON line on a pipe.
A fate-shared child holds a pipe of its parent and leaves when that closes, however the
parent ended.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from nbray.common.pids import open_process, start_time

if TYPE_CHECKING:
    import asyncio

logger = logging.getLogger(__name__)

NOTICES = (signal.SIGUSR1, signal.SIGUSR2)
"""What Slurm sends to say that a job is about to end, as its user chose."""

_FILES = 1 << 16
_TOLD_S = 30.0
_LOOK_S = 0.05


class ProcessStartError(Exception):
    """A process of the cluster did not start; the text says why."""


_alive_pipes: set[int] = set()


def _close_alive_pipes() -> None:
    """A fork of a parent is none: its children leave with the parent, whatever else lives."""
    while _alive_pipes:
        os.close(_alive_pipes.pop())


os.register_at_fork(after_in_child=_close_alive_pipes)


class ForkedProcess:
    """A process that a child of this one forked, with what is needed here of `subprocess.Popen`.

    ``told`` is the pipe on which the child tells its pid.
    """

    def __init__(self, told: int) -> None:
        self._told = told
        self._pid: int | None = None
        self._started = 0

    @property
    def pid(self) -> int:
        """Its process id, as soon as there is one; 0 if the child ended before."""
        if self._pid is None:
            poller = select.poll()
            poller.register(self._told, select.POLLIN)
            text = os.read(self._told, 32) if poller.poll(_TOLD_S * 1000) else b""
            os.close(self._told)
            self._pid = int(text or 0)
            self._started = start_time(self._pid) if self._pid else 0
        return self._pid

    def _opened(self) -> int | None:
        return open_process(self.pid, self._started) if self.pid else None

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end; None if it did not come. How it ended, only its parent knows."""
        descriptor = self._opened()
        if descriptor is None:
            return 0
        try:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            return 0 if poller.poll(None if timeout is None else timeout * 1000) else None
        finally:
            os.close(descriptor)

    def poll(self) -> int | None:
        """None while it runs."""
        return self.wait(0.0)

    def terminate(self) -> None:
        """SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        descriptor = self._opened()
        if descriptor is not None:
            try:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)


class OwnFork:
    """A child that this process forked, with what is needed of `subprocess.Popen`.

    Attributes:
        pid: its process id.
        returncode: as `Popen` has it, None until somebody has seen its end.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended, None while it runs."""
        return self._reap(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end; None if it did not come."""
        if timeout is None:
            return self._reap(0)
        until = time.monotonic() + timeout
        while self.poll() is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return self.returncode

    def _reap(self, how: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, how)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def kill(self) -> None:
        """SIGKILL."""
        if self.poll() is None:  # until it is reaped, nobody else has its pid
            os.kill(self.pid, signal.SIGKILL)


class Child:
    """A process that this one started."""

    def __init__(
        self,
        module: str,
        process: subprocess.Popen[bytes] | ForkedProcess,
        log: Path,
        ready: int,
        alive: int | None,
    ) -> None:
        self._module = module
        self._process = process
        self._log = log
        self._ready = ready
        self._alive = alive

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs; whoever asks reaps it."""
        return self._process.poll()

    def wait_ready(self, timeout_s: float) -> dict[str, Any]:
        """What the child reported when it was ready.

        Raises:
            ProcessStartError: it reported an error, ended, or took longer than ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        line = b""
        poller = select.poll()  # not `select`, which knows the first 1024 files only
        poller.register(self._ready, select.POLLIN)
        try:
            while not line.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not poller.poll(left * 1000):
                    raise ProcessStartError(
                        f"{self._module} was not ready in {timeout_s:.0f} s. {self._log_end()}"
                    )
                part = os.read(self._ready, 65536)
                if not part:
                    raise ProcessStartError(f"{self._module} ended at once. {self._log_end()}")
                line += part
        finally:
            os.close(self._ready)
        report: dict[str, Any] = json.loads(line)
        if "error" in report:
            raise ProcessStartError(str(report["error"]))
        return report

    def do_not_wait(self) -> None:
        """Let it come up by itself; what it would report goes into its log."""
        os.close(self._ready)

    def _log_end(self) -> str:
        if os.statvfs(self._log.parent).f_bavail == 0:
            return f"No space left on the disk of {self._log.parent}, also not for its log."
        if not self._log.exists():  # its starter failed
            return "See the other logs beside " + str(self._log)
        lines = self._log.read_text(errors="replace").splitlines()[-12:]
        return f"The end of its log {self._log}:\n" + "\n".join(lines)

    def terminate(self, timeout_s: float = 5.0) -> None:
        """Ask it to leave, and kill it after ``timeout_s`` seconds."""
        try:
            self._process.terminate()
            if not ends_within(self._process, timeout_s):
                self._process.kill()
                self._process.wait()
        finally:  # of an interrupted wait, too: then it leaves for want of a parent, at the latest
            if self._alive is not None:
                _alive_pipes.discard(self._alive)
                os.close(self._alive)
                self._alive = None


def spawn(
    module: str, args: Sequence[str], log: Path, *, fate_shared: bool,
    pass_fds: Sequence[int] = (), parent_fd: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> Child:  # fmt: skip
    """Start ``python -P -m module``; see the head of this file.

    With ``parent_fd``, the pipe of this process's own parent, the child leaves as this one does.
    ``variables`` come on top of this process's.

    Raises:
        OSError: this machine, or this process, has no room for another; nothing is left open.
    """
    with ExitStack() as own_ends, ExitStack() as its_ends:  # of the pipes
        ready_read, ready_write = os.pipe()
        own_ends.callback(os.close, ready_read)
        its_ends.callback(os.close, ready_write)
        inherited = [ready_write, *pass_fds]
        command = [sys.executable, "-P", "-m", module, *args, "--ready-fd", str(ready_write)]
        alive_write = None
        if fate_shared:
            alive_read, alive_write = os.pipe()
            own_ends.callback(os.close, alive_write)
            its_ends.callback(os.close, alive_read)
            own_ends.callback(_alive_pipes.discard, alive_write)
            _alive_pipes.add(alive_write)
            inherited.append(alive_read)
            command += ["--parent-fd", str(alive_read)]
        elif parent_fd is not None:
            inherited.append(parent_fd)
            command += ["--parent-fd", str(parent_fd)]
        with open(log, "ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, pass_fds=inherited,
                env=environment() | dict(variables or {}),
            )  # fmt: skip
        own_ends.pop_all()  # which are closed here if it did not start
    return Child(module, process, log, ready_read, alive_write)


def ends_within(
    process: subprocess.Popen[bytes] | ForkedProcess | OwnFork, timeout_s: float
) -> bool:
    """Wait for the end of a child; whether it came in ``timeout_s`` seconds.

    `Popen.wait` with a timeout looks every 50 ms, which is a third of the time that a cluster takes
    to end.
    """
    if process.poll() is not None:
        return True
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:  # no descriptor is left
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        return process.poll() is not None
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(timeout_s * 1000)
    finally:
        os.close(descriptor)
    return process.poll() is not None


def end_fork(pid: int, timeout_s: float = 3.0) -> None:
    """Ask a fork of this process to leave, kill it after ``timeout_s`` seconds, and reap it.

    If the pid is no child's any more, nothing is done.
    """
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        descriptor = os.pidfd_open(pid)
    except (ChildProcessError, ProcessLookupError):
        return
    try:
        os.kill(pid, signal.SIGTERM)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    finally:
        os.close(descriptor)


def environment() -> dict[str, str]:
    """This process's variables, for a child that must not import from the current folder.

    ``-P`` keeps that folder out of ``sys.path``; an empty entry of PYTHONPATH, as ``$PYTHONPATH:x``
    leaves one where there was none, would put it back. Files of a folder that others may write to
    would run in the cluster, and a `random.py` beside a notebook would stop it.
    """
    variables = dict(os.environ)
    entries = [entry for entry in variables.pop("PYTHONPATH", "").split(os.pathsep) if entry]
    if entries:
        variables["PYTHONPATH"] = os.pathsep.join(entries)
    return variables


def ignore_blocked_notices() -> None:
    """Ignore the notices that the starter of this process has blocked.

    Unlike one that ignores them, it hears of them later itself, and this process is safe from
    its first moment on.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(NOTICES)
    for number in blocked:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def allow_many_files() -> None:
    """Raise this process's limit of open files, for one of many connections and spill files.

    The usual 1024 are one for each of a thousand actors, and none for anything else; they are there
    for programs that call `select`. Ray raises them, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


_M_MMAP_THRESHOLD = -3
_M_TRIM_THRESHOLD = -1
_M_ARENA_MAX = -8
_LARGE_BLOCK = 1 << 20
_LARGE_ANSWER = 64 << 10
_FEW_HEAPS = 2
_KEPT_FREE = 4 << 20


def give_large_blocks_back() -> None:
    """Have the C library return large blocks to the system when they are freed.

    Else it learns from the first chunk of an object that passes by to keep room for such blocks in
    its heap, of which fragments are kept for good. A little of the heap's end is kept free, or each
    chunk that passes by would have the system clear its pages anew.
    """
    _set_malloc((_M_MMAP_THRESHOLD, _LARGE_BLOCK), (_M_TRIM_THRESHOLD, _KEPT_FREE))


def give_answers_back() -> None:
    """Have the C library return to the system what answers to many took, in a process with gRPC.

    A thousand nodes that are told of each other at once have a copy each of a large answer until
    they have read it. Each of gRPC's threads, of which there are more the busier the machine is,
    has a heap of its own otherwise, and each heap keeps the most that it ever held: a GCS that
    such nodes joined slowly had 1.4 GB for good, of 280 MB that it used.
    """
    _set_malloc(
        (_M_ARENA_MAX, _FEW_HEAPS),
        (_M_MMAP_THRESHOLD, _LARGE_ANSWER),
        (_M_TRIM_THRESHOLD, _KEPT_FREE),
    )


def _set_malloc(*options: tuple[int, int]) -> None:
    try:
        libc = ctypes.CDLL(None)
        for option, value in options:
            libc.mallopt(option, value)
    except (AttributeError, OSError) as error:  # another C library than glibc
        logger.info("The C library has no mallopt: %s", error)


def report_ready(fd: int, report: dict[str, Any]) -> None:
    """Tell the starter that this process is ready, or by ``error`` why not.

    Raises:
        SystemExit: it has ended, and nobody else knows of this process.
    """
    try:
        os.write(fd, json.dumps(report).encode() + b"\n")
    except BrokenPipeError:
        raise SystemExit("Who started this process has ended meanwhile.") from None
    finally:
        os.close(fd)


def leave(status: int = 0) -> NoReturn:
    """End a process that has done all it has to, without taking its modules to pieces before.

    That takes as long as half of their imports, and somebody waits for the end.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


_LONGEST_END_S = 10.0


def leave_in_time(loop: asyncio.AbstractEventLoop) -> None:
    """From now on this process ends within seconds, also when some of its work does not."""

    import asyncio  # a driver, which imports this module, has none

    def leave() -> None:
        left = [str(task.get_coro()) for task in asyncio.all_tasks(loop)]
        logger.error("It did not end in %.0f s and leaves: %s", _LONGEST_END_S, ", ".join(left))
        os._exit(1)

    loop.call_later(_LONGEST_END_S, leave)


class _Loop(Protocol):
    def add_reader(self, fd: int, callback: Callable[[], None]) -> None: ...
    def remove_reader(self, fd: int) -> bool: ...


def watch_parent(loop: _Loop, fd: int, stop: Callable[[], None]) -> None:
    """Call ``stop`` when the parent's end of the pipe ``fd`` closes."""

    def closed() -> None:
        loop.remove_reader(fd)
        stop()

    loop.add_reader(fd, closed)
