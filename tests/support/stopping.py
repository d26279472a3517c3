"""Processes that stand still."""

from __future__ import annotations

import os
import signal

import psutil

from nbray.testing import wait_until


def stand_still(pid: int) -> None:
    """SIGSTOP a process, and wait until it has: on a busy machine it may answer until then."""
    os.kill(pid, signal.SIGSTOP)
    wait_until_still(pid)


def wait_until_still(pid: int) -> None:
    """Wait until a process stands still that somebody stops."""
    process = psutil.Process(pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, f"process {pid} to stand still")
