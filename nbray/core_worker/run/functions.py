"""The functions that a worker has been sent, as many as are worth keeping.

A notebook sends each version of each function, with what it captured: those that were not run for
longest are dropped. A task that finds its function dropped goes back to its submitter, which
sends it along the next time (`TasksReturned.forgotten`); so nobody has to tell before.
"""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from nbray import cloudpickle

_MOST = 500
_MOST_BYTES = 256 << 20
_WORTH_COLLECTING = 1 << 20


class Functions:
    """Functions by id, each as a pickle until it is called for the first time."""

    def __init__(self, most: int = _MOST, most_bytes: int = _MOST_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._known: OrderedDict[bytes, bytes | Callable[..., Any]] = OrderedDict()
        self._sizes: dict[bytes, int] = {}
        self._newest = b""

    def __contains__(self, function_id: bytes) -> bool:
        return function_id in self._known

    def name(self, function_id: bytes) -> str:
        """What a function that was called is called in its code; nothing of others."""
        return getattr(self._known.get(function_id), "__name__", "")

    def learn(self, function_id: bytes, pickled: bytes) -> None:
        """A function came along with a task; from any thread."""
        self._sizes[function_id] = len(pickled)
        self._known.setdefault(function_id, pickled)

    def get(self, function_id: bytes, needed: Callable[[], Iterable[bytes]]) -> Callable[..., Any]:
        """A function that is known, to be called now; from the thread that runs tasks.

        ``needed`` tells which others are waited for, when room for this one has to be made.
        """
        known = self._known[function_id]
        if isinstance(known, bytes):
            known = self._known[function_id] = cloudpickle.loads(known)
            self._newest = function_id
            self._known.move_to_end(function_id)
            self._make_room(needed)
        elif function_id != self._newest:
            self._newest = function_id
            self._known.move_to_end(function_id)
        return known

    def _make_room(self, needed: Callable[[], Iterable[bytes]]) -> None:
        held = sum(self._sizes.values())
        if len(self._known) <= self._most and held <= self._most_bytes:
            return
        kept = {self._newest, *needed()}
        dropped = 0
        for function_id in list(self._known):
            if len(self._known) <= self._most and held - dropped <= self._most_bytes:
                break
            if function_id not in kept:
                del self._known[function_id]
                dropped += self._sizes.pop(function_id)
        if dropped >= _WORTH_COLLECTING:
            gc.collect()  # a function and its globals refer to each other
