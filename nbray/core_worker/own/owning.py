"""The owning side of one process: its parts, made in the order in which they know each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from nbray.core_worker.identity import Identity
from nbray.core_worker.own.borrowing import Borrowing
from nbray.core_worker.own.counting import Counting, HandlesOfActors
from nbray.core_worker.own.endings import Endings
from nbray.core_worker.own.freeing import Free, Freeing
from nbray.core_worker.own.lineage import Lineage
from nbray.core_worker.own.locations import Locations
from nbray.core_worker.own.streams import Share, Streams
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.ports import Mail, RunsAgain


class Owning:
    """What a process owns and borrows.

    Args:
        me: who it is.
        mail: sends to other processes.
        free: tells raylets what is of no use any more.
        actors: is told when no handle of an actor is left.
        runs: runs tasks again.
        share: see `Streams`; gets the table as well.
        ending: a lock, see `Counting`.
        max_lineage_bytes: what tasks that could be run again may have together.
    """

    def __init__(
        self, me: Identity, mail: Mail, free: Free, actors: HandlesOfActors, runs: RunsAgain,
        share: Callable[[OwnershipTable], Share], ending: AbstractContextManager[Any],
        max_lineage_bytes: int,
    ) -> None:  # fmt: skip
        table = self.table = OwnershipTable()
        freeing = Freeing(table, free)
        lineage = self.lineage = Lineage(table, freeing, runs, max_lineage_bytes)
        self.counting = Counting(me, table, freeing, lineage, actors, mail, ending)
        borrowing = self.borrowing = Borrowing(table, self.counting, mail, me, lineage)
        self.locations = Locations(me, table, freeing, lineage, borrowing, mail)
        shared = share(table)
        self.streams = Streams(table, freeing, borrowing, lineage, mail, shared)
        self.endings = Endings(table, freeing, borrowing, lineage, self.streams, mail, shared)
