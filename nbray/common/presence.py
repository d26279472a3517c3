"""Who is there, for one that leaves after the others."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from contextlib import suppress

LAST_WORDS_S = 2.0
"""How long a process that ends waits until those it served have heard of it."""


class Presence:
    """Those who are there; all belongs to one event loop."""

    def __init__(self) -> None:
        self._there: set[Hashable] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def came(self, one: Hashable) -> None:
        """One is there."""
        self._there.add(one)
        self._empty.clear()

    def went(self, one: Hashable) -> None:
        """One is not, or not any more."""
        self._there.discard(one)
        if not self._there:
            self._empty.set()

    async def all_gone(self) -> None:
        """Wait until nobody is there, for `LAST_WORDS_S` at most: some stand still."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), LAST_WORDS_S)
