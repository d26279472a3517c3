"""How a process is seen to end, and how long the next one waits."""

from __future__ import annotations

import asyncio
import logging
import os

from nbray.common.pids import open_process, start_time

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.2


async def end_of(pid: int, started: int | None = None) -> None:
    """Wait for the end of a process: by default of a child, else of the one that began then.

    Whoever cannot look is not told that it has ended, or would start another beside it.
    """
    while True:
        try:
            # until a child is reaped, nobody else has its pid
            began = start_time(pid) if started is None else started
            descriptor = open_process(pid, began)
            break
        except OSError as error:  # no descriptor is left
            logger.warning("The end of pid %d is not watched yet: %s", pid, error)
            await asyncio.sleep(_LOOK_AGAIN_S)
    if descriptor is None:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


class Pause:
    """The wait before a process is started again: twice the last one if it ended soon.

    Args:
        shortest_s: the wait after a process that was stable, in seconds.
        longest_s: the longest wait.
        stable_s: who lived longer was stable. It lives from when it is ready, since a start takes
            seconds on a busy machine; and a few seconds of work are enough, since who is killed
            now and then, however often, has not failed.
    """

    def __init__(self, shortest_s: float, longest_s: float, stable_s: float) -> None:
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._stable_s = stable_s
        self._next_s = shortest_s

    def length_s(self, lived_s: float) -> float:
        """How long the next one waits, when the last one lived for so long."""
        if lived_s > self._stable_s:
            self._next_s = self._shortest_s
        wait_s, self._next_s = self._next_s, min(self._longest_s, 2 * self._next_s)
        return wait_s

    async def after(self, lived_s: float) -> None:
        """Wait: the last one lived for so long.

        It waits at least a moment, so that the end of a whole node, which ends both, is seen first.
        """
        await asyncio.sleep(self.length_s(lived_s))
