"""Processes by pid and start time, since a pid alone may be somebody else's by now."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_STAT_BYTES = 4096
_TRACKER = b"resource_tracker import main"  # of multiprocessing, and of loky


def stat_fields(pid: int | str) -> list[str]:
    """The fields of a process from its state (3) on; none when it has gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)  # a third of what `read_text` takes
    except (FileNotFoundError, ProcessLookupError):
        return []
    try:
        text = os.read(descriptor, _STAT_BYTES)
    except ProcessLookupError:
        return []
    finally:
        os.close(descriptor)
    # A process may have any name, also one with brackets.
    return text.rpartition(b")")[2].decode().split()


def start_time(pid: int) -> int:
    """When a process began, in ticks since the machine did; 0 when there is none."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def machine() -> str:
    """What the processes that see each other's pids have in common."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"


def open_process(pid: int, started: int) -> int | None:
    """A descriptor of the process that began then, readable once it has ended; None if it has.

    Raises:
        OSError: there are no more descriptors.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        if start_time(pid) == started:
            return descriptor
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def kill_sessions(leaders: Mapping[int, int]) -> None:
    """Kill all processes of sessions but the caller.

    A tracker of `multiprocessing` is left: it ends by itself when those have ended for which it
    keeps what is in ``/dev/shm``, and removes that first.

    Args:
        leaders: the pids of those who made them, with their start times. Whether they run or have
            gone, a session of another one that has the pid now is left alone.
    """
    known = {os.getpid()}
    while found := _members(leaders) - known:
        known |= found
        for pid in sorted(found, key=lambda pid: pid not in leaders):  # who starts others, first
            _kill_member(pid, leaders)


def _members(leaders: Mapping[int, int]) -> set[int]:
    """The processes of sessions that run, or are stopped."""
    return {
        int(entry)
        for entry in os.listdir("/proc")
        if entry.isdigit() and _is_member(stat_fields(entry), leaders)
    }


def _is_member(fields: list[str], leaders: Mapping[int, int]) -> bool:
    return bool(fields) and fields[0] != "Z" and int(fields[3]) in leaders


def _is_tracker(pid: int) -> bool:
    try:
        return _TRACKER in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def _kill_member(pid: int, leaders: Mapping[int, int]) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        fields = stat_fields(pid)
        if not _is_member(fields, leaders):
            return
        leader = int(fields[3])
        if _is_tracker(pid):
            return
        if start_time(leader) in (0, leaders[leader]):
            with suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    finally:
        os.close(descriptor)
