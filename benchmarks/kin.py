"""Processes that a run has begun: they end with it, however it ends.

A cluster's processes outlive their parent for a moment, or for good when it was killed. So the
process that measures adopts what is orphaned below it, and what it begins is killed with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time

import psutil

_DEATH_SIGNAL = 1
_SUBREAPER = 36
_LIBC = ctypes.CDLL(None)


def adopt_orphans() -> None:
    """From now on, whoever loses its parent below this process becomes its child."""
    _LIBC.prctl(_SUBREAPER, 1, 0, 0, 0)


def end_with_parent() -> None:
    """Be killed when the process that began this one ends; for a child before it has a program."""
    _LIBC.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


def present() -> set[int]:
    """The pids of all descendants of this process."""
    return {process.pid for process in psutil.Process().children(recursive=True)}


def end(process: subprocess.Popen[bytes], before: set[int], patience_s: float = 10.0) -> None:
    """End ``process`` and what came below this one since ``before``: by itself first, then killed.

    Raises:
        TimeoutError: some cannot even be killed.
    """
    known = _since(before)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for deadly in (False, True):
        until = time.monotonic() + patience_s
        while known and time.monotonic() < until:
            for other in known if deadly else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    other.kill()
            _, alive = psutil.wait_procs(known, timeout=min(1.0, patience_s))
            known = {*alive, *_since(before)}  # what was orphaned meanwhile is below this one
    if known:
        raise TimeoutError(f"processes {[other.pid for other in known]} cannot be killed")


def _since(before: set[int]) -> set[psutil.Process]:
    return {
        process
        for process in psutil.Process().children(recursive=True)
        if process.pid not in before
    }
