"""What was done for requests whose answers would be others if they were done again.

A raylet whose call broke off cannot know whether it was heard, and repeats it. Of what is done the
number of the request is kept, in one transaction with that (`Store.together`), and how it was
answered: also a GCS that was killed between doing and answering answers so when it comes back. The
newest ones are kept: who repeats does so as soon as somebody is there again.
"""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from nbray.gcs.storage import Store, Table

_KEPT = 10_000


class _Receipt(msgspec.Struct, array_like=True, gc=False):
    number: int
    answer: int


class Receipts:
    """The newest requests that were done, by their random ids."""

    def __init__(self, store: Store) -> None:
        self._table: Table[Any] = Table(store, "receipts", _Receipt)
        rows = sorted(self._table.all().items(), key=lambda row: row[1].number)
        self._answers = {request_id: receipt.answer for request_id, receipt in rows}
        self._numbers = itertools.count(rows[-1][1].number + 1 if rows else 0)

    def find(self, request_id: bytes) -> int | None:
        """How that request was answered; None if it was not done."""
        return self._answers.get(request_id)

    def keep(self, request_id: bytes, answer: int) -> None:
        """That request is done; to be called with what is done, within `Store.together`."""
        if not request_id:
            return
        self._answers[request_id] = answer
        self._table.put(request_id, _Receipt(next(self._numbers), answer))
        if len(self._answers) > _KEPT:
            oldest = next(iter(self._answers))
            del self._answers[oldest]
            self._table.delete(oldest)
