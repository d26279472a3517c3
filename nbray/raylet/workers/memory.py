"""The memory monitor: a worker is ended before the machine runs out and ends something itself.

Which one follows Ray's documentation of out-of-memory prevention: what can be retried comes
first; among the submitters the one with the most running tasks, then the one whose earliest task
began last; among its tasks the newest. So each submitter keeps one task going, and the last task
of a submitter is not retried when it has to end, since that would only end it again.

The decision (`choose`) is pure, `common/memory.py` reads the machine, `MemoryMonitor` acts.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import psutil

from nbray.common.config import Config
from nbray.common.memory import MemoryReader, Usage, private_bytes
from nbray.wire.causes import Cause, CauseKind

logger = logging.getLogger(__name__)

_SHOWN = 10
_PATIENCE_S = 5.0
_FILLED_BY_CORE = 4e9


@dataclass(frozen=True)
class Candidate:
    """A worker that runs tasks of somebody, or an actor.

    Attributes:
        worker_id: which one.
        owner: who submitted its tasks, or made the actor.
        retriable: whether what it runs may be run again.
        since: when it began, in seconds on any clock.
    """

    worker_id: bytes
    owner: Hashable
    retriable: bool
    since: float


@dataclass(frozen=True)
class Victim:
    """Who has to end, and whether what it ran is run again later."""

    worker_id: bytes
    retry: bool


def choose(candidates: Sequence[Candidate]) -> Victim | None:
    """The worker to end; None when there is none. See the head of this module."""
    groups: dict[tuple[Hashable, ...], list[Candidate]] = {}
    for candidate in candidates:
        alone = () if candidate.retriable else (candidate.worker_id,)
        groups.setdefault((candidate.owner, *alone), []).append(candidate)
    if not groups:
        return None
    group = max(
        groups.values(),
        key=lambda members: (
            members[0].retriable, len(members), min(member.since for member in members),
        ),
    )  # fmt: skip
    newest = max(group, key=lambda member: member.since)
    return Victim(newest.worker_id, newest.retriable and len(group) > 1)


def pause_s(usage: Usage, threshold: float, period_s: float, cores: int) -> float:
    """How long the next look may wait: four periods as long as nobody can fill the memory sooner.

    To write to memory for the first time takes a core a second for some GB.
    """
    left = threshold * usage.total - usage.used
    return max(period_s, min(left / (_FILLED_BY_CORE * cores), 4 * period_s))


class MemoryMonitor:
    """Looks at the memory of the machine again and again.

    Args:
        node: what errors call this node.
        config: thresholds and periods.
        candidates: who may be ended now.
        pids: the workers of this node and their processes.
        end: ends a worker; the cause says whether what it ran may be run again.
    """

    def __init__(
        self,
        node: str,
        config: Config,
        candidates: Callable[[], list[Candidate]],
        pids: Callable[[], dict[bytes, int]],
        end: Callable[[bytes, Cause], None],
    ) -> None:
        self._node = node
        self._threshold = config.memory_usage_threshold
        self._period_s = config.memory_monitor_refresh_ms / 1000
        self._reader = MemoryReader(config.node_memory_limit_bytes)
        self._candidates = candidates
        self._pids = pids
        self._end = end

    async def run(self) -> None:
        """Watch for ever; at once over when the period is 0, which switches it off."""
        pause, cores = self._period_s, os.cpu_count() or 1
        while self._period_s:
            await asyncio.sleep(pause)
            pause = self._period_s
            try:
                usage = self._reader.read([os.getpid(), *self._pids().values()])
                pause = pause_s(usage, self._threshold, self._period_s, cores)
                if usage.used > self._threshold * usage.total:
                    await self._make_room(usage)
            except (OSError, ValueError) as error:  # no file may be open, or a cgroup has gone
                logger.warning("The memory could not be looked at: %s", error)
                await asyncio.sleep(_PATIENCE_S)

    async def _make_room(self, usage: Usage) -> None:
        victim = choose(self._candidates())
        if victim is None:
            logger.warning("Memory runs out (%s), and no worker can be ended.", _text(usage))
            return
        cause = Cause(CauseKind.OUT_OF_MEMORY, self._text(usage, victim), again=victim.retry)
        logger.warning("%s", cause)
        self._end(victim.worker_id, cause)
        for _ in range(int(_PATIENCE_S / 0.02)):  # its memory is free once it has gone
            if victim.worker_id not in self._pids():
                return
            await asyncio.sleep(0.02)
        logger.warning("The worker that was ended is still there.")

    def _text(self, usage: Usage, victim: Victim) -> str:
        pids = self._pids()
        pid = pids.get(victim.worker_id, 0)
        users = sorted(((private_bytes(p), p) for p in pids.values()), reverse=True)
        table = "\n".join(f"  {p}\t{size / 1e9:.2f}\t{_command(p)}" for size, p in users[:_SHOWN])
        return (
            "Task was killed due to the node running low on memory.\n"
            f"Memory on the node ({self._node}) where the worker (pid={pid}, memory used="
            f"{private_bytes(pid) / 1e9:.2f}GB) ran was {_text(usage)}, which exceeds the memory "
            f"usage threshold of {self._threshold:g}. The worker was killed because it ran the "
            "newest task of the submitter with the most tasks.\n"
            f"Top {_SHOWN} memory users:\n  PID\tMEM(GB)\tCOMMAND\n{table}\n"
            "Run fewer tasks at once by giving them more num_cpus or memory, make them smaller, "
            "or add memory; NBRAY_MEMORY_USAGE_THRESHOLD moves the threshold, "
            "NBRAY_MEMORY_MONITOR_REFRESH_MS=0 switches the monitor off."
        )


def _text(usage: Usage) -> str:
    share = usage.used / usage.total
    return f"{usage.used / 1e9:.2f}GB / {usage.total / 1e9:.2f}GB ({share:.3f})"


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:80]
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return "(it has ended)"
