"""The nodes of this user on this machine, whoever started them, and how they are ended.

A driver starts without psutil, which comes with the first process that is found.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

from nbray.common.config import Config
from nbray.common.pids import start_time
from nbray.common.session import (
    Session,
    SessionInfo,
    known_sessions,
    starting_sessions,
    unfinished_sessions,
)

if TYPE_CHECKING:
    import psutil

_KILLED_S = 5.0


@dataclass(frozen=True)
class FoundNode:
    """A node of this user on this machine, whoever started it, as its session folder tells.

    Attributes:
        session: its folder.
        gcs_address: the GCS of its cluster.
        fate_shared: it ends with the program that started it.
        processes: its GCS, raylet and dashboard as far as they run, in the order of their start.
        dashboard: where its dashboard is, as "host:port"; empty when it has none.
        dashboard_error: why it has none although nobody refused it.
        by_command: `nbray start` started it, perhaps with ``--block``.
    """

    session: Session
    gcs_address: str
    fate_shared: bool
    processes: list[psutil.Process]
    dashboard: str = ""
    dashboard_error: str = ""
    by_command: bool = False

    def end(self, grace_s: float) -> None:
        """End it within ``grace_s`` seconds, 0: at once; a command that holds it ends with it."""
        end_nodes([self], grace_s)

    def stop(self, force: bool = False) -> None:
        """End its processes and delete its folder; with ``force`` they are killed."""
        self.end_processes(0.0 if force else 5.0)
        self.session.remove()

    def end_processes(self, timeout_s: float = 5.0) -> None:
        """End its processes: the raylet, which ends what it has started, and then what is left.

        One that has not left within ``timeout_s`` seconds is killed.
        """
        _end_in_turns([self], timeout_s)

    def in_turns(self) -> list[psutil.Process]:
        """Its processes in the order of their end: the dashboard serves drivers from afar, whom
        the raylet has told that the cluster ends before it ends that.
        """
        return sorted(reversed(self.processes), key=lambda process: not is_raylet(process))


def end_nodes(nodes: Sequence[FoundNode], grace_s: float) -> None:
    """End nodes within ``grace_s`` seconds, 0: at once; a command that holds one ends with it.

    All of them at the same time: their raylets, then the GCSs, which these tell that they leave.
    """
    deadline = time.monotonic() + grace_s
    for node in nodes:
        if grace_s and node.fate_shared and node.by_command and node.processes:
            _end_holder(node.processes[-1], max(0.0, deadline - time.monotonic()))
    _end_in_turns(nodes, max(0.0, deadline - time.monotonic()))
    for node in nodes:
        node.session.remove()


def _end_holder(process: psutil.Process, timeout_s: float) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError):
        holder = process.parent()
        if holder is not None and "--block" in holder.cmdline():
            holder.terminate()
            _has_ended(holder.pid, timeout_s)


def _end_in_turns(nodes: Sequence[FoundNode], timeout_s: float) -> None:
    """End the first processes of all nodes, then the next; each turn has so many seconds."""
    import psutil

    for turn in zip_longest(*(node.in_turns() for node in nodes)):
        processes = [process for process in turn if process is not None]
        if timeout_s:
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.terminate()
        deadline = time.monotonic() + timeout_s
        for process in processes:
            try:
                left = deadline - time.monotonic()
                if not timeout_s or not _has_ended(process.pid, max(0.0, left)):
                    process.kill()
                    _has_ended(process.pid, _KILLED_S)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Whether a process ended within ``timeout_s``; one that nobody has reaped yet has ended.

    The first process of a container may take seconds to reap, so its waiting is not ours.
    """
    pidfd = os.pidfd_open(pid)
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def is_raylet(process: psutil.Process) -> bool:
    """Whether a process is a raylet; one that has ended is none."""
    import psutil

    try:
        return "nbray.raylet" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


def found_nodes() -> list[FoundNode]:
    """The nodes of this user on this machine, the newest first, also those that ended."""
    return [
        FoundNode(
            session, info["gcs_address"], info["fate_shared"],
            _processes_of(session, info, len(info["pids"])),
            info["dashboard"], info["dashboard_error"], info["for_programs"],
        )
        for session, info in known_sessions()
    ]  # fmt: skip


def node_of(session: Session) -> FoundNode:
    """The node of a session folder, wherever that is, also of one whose start was cut off."""
    try:
        info = session.read_info()
    except (OSError, ValueError):
        return FoundNode(session, "", False, _processes_naming(session))
    return FoundNode(
        session, info["gcs_address"], info["fate_shared"],
        _processes_of(session, info, len(info["pids"])), by_command=info["for_programs"],
    )  # fmt: skip


def running_sessions() -> Iterator[tuple[Session, SessionInfo]]:
    """The sessions whose nodes still run, the newest first; a GCS alone may be away for a moment,
    as may a dashboard for good.
    """
    for session, info in known_sessions():
        if _processes_of(session, info, 2):
            yield session, info


def _processes_of(session: Session, info: SessionInfo, first: int) -> list[psutil.Process]:
    """Those of the first so many processes that run, and still are this session's."""
    found = []
    for pid, began in list(zip(info["pids"], info["start_ticks"], strict=True))[:first]:
        if not began or start_time(pid) != began:
            continue  # it has ended, and the pid may have a new owner
        import psutil

        try:
            process = psutil.Process(pid)
            if str(session.path) in process.cmdline():
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def end_unfinished_starts() -> int:
    """End what starts left that were killed before they were done; how many there were."""
    count = 0
    for session in unfinished_sessions(_longest_start_s()):
        left = _processes_naming(session)
        FoundNode(session, "", False, left).stop()
        count += bool(left)
    return count


def starters() -> list[int]:
    """The processes that are starting nodes here at this moment."""
    found = [session.starter for session in starting_sessions(_longest_start_s())]
    return [pid for pid in found if pid]


def _longest_start_s() -> float:
    return 2 * Config.from_env().start_timeout_s  # a GCS and a raylet, one after the other


def _processes_naming(session: Session) -> list[psutil.Process]:
    """Those whose command lines name a session folder, in the order of their start."""
    import psutil

    found = [
        process for process in psutil.process_iter(["cmdline", "create_time"])
        if str(session.path) in (process.info["cmdline"] or ())
    ]  # fmt: skip
    return sorted(found, key=lambda process: float(process.info["create_time"]))


def drop_dead_sessions(keep: int = 1) -> None:
    """Delete what clusters left on the disk that ended with a killed program, as a kernel is.

    The newest ``keep`` of them stay, for their logs.
    """
    dead = [node for node in found_nodes() if node.fate_shared and not node.processes]
    for node in dead[keep:]:
        node.session.remove()
