"""The rows of submitted jobs, on the store: all that live, and the newest thousand that ended."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import OrderedDict
from itertools import takewhile
from typing import Any

import msgspec

from nbray.gcs.receipts import Receipts
from nbray.gcs.storage import Store, Table
from nbray.gcs.submissions.life import ENDED, Event
from nbray.gcs.submissions.machine import change
from nbray.wire import submission_messages as s
from nbray.wire.grpc_service import Handler

logger = logging.getLogger(__name__)

_ENDED_KEPT = 1000
_MOST_ROWS = 20_000
_LARGEST_ANSWER = 16 << 20
_GONE_KEPT = 10_000
_PACKAGE = re.compile(r'gcs://[^"]+')


class SubmissionTable:
    """The GCS methods on submitted jobs."""

    def __init__(self, store: Store, receipts: Receipts) -> None:
        self._store = store
        self._receipts = receipts
        self._table = Table(store, "submissions", s.Submission)
        rows = sorted(self._table.all().values(), key=lambda row: row.version)
        # In the order of their last changes, which is that of their versions.
        self._rows = OrderedDict((row.submission_id, row) for row in rows)
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._version = rows[-1].version if rows else 0
        self._epoch = os.urandom(8)
        self._news = asyncio.Event()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The methods, for the gRPC server."""
        return {
            "SubmitJob": (s.SubmitJob, self._submit),
            "GetSubmission": (s.SubmissionId, self._get),
            "ChangeSubmission": (s.ChangeSubmission, self._change),
            "WatchSubmissions": (s.WatchSubmissions, self._watch),
        }

    def packages(self) -> set[str]:
        """What the runtime environments of jobs name that have not ended."""
        live = (row.runtime_env for row in self._rows.values() if row.state not in ENDED)
        return {uri for text in live for uri in _PACKAGE.findall(text)}

    async def _submit(self, request: s.SubmitJob) -> s.SubmissionChanged:
        row = request.row
        known = self._rows.get(row.submission_id)
        if known is not None and known.request_id == row.request_id:
            await self._store.durable()
            return s.SubmissionChanged(known)
        if known is not None:
            return s.SubmissionChanged(
                None, False,
                f"Job with submission_id {row.submission_id} already exists. Please use a "
                "different submission_id.",
            )  # fmt: skip
        if len(self._rows) >= _MOST_ROWS:
            return s.SubmissionChanged(
                None, False,
                f"{_MOST_ROWS:,} jobs have been submitted and not ended, which is the most.",
            )  # fmt: skip
        row.submitted = time.time()
        logger.info("Job %s was submitted.", row.submission_id)
        self._keep(row)
        await self._store.durable()
        return s.SubmissionChanged(row)

    async def _get(self, request: s.SubmissionId) -> s.SubmissionChanged:
        row = self._rows.get(request.submission_id)
        await self._store.durable()  # nobody is told of what could still be lost
        return s.SubmissionChanged(row, row is not None)

    async def _change(self, request: s.ChangeSubmission) -> s.SubmissionChanged:
        row = self._rows.get(request.submission_id)
        if self._receipts.find(request.request_id) is not None:
            await self._store.durable()
            return s.SubmissionChanged(row)
        if row is None:
            return s.SubmissionChanged(None, False, "there is no such job")
        before = row.state
        # A row that somebody is being told of stays as it was.
        row = msgspec.structs.replace(row)
        why = change(row, request, time.time())
        if why:
            await self._store.durable()
            return s.SubmissionChanged(self._rows.get(request.submission_id), False, why)
        with self._store.together():
            if request.event == Event.DELETED:
                self._forget(row.submission_id)
            elif row.state != before:
                logger.info("Job %s is %s.", row.submission_id, row.state)
                self._keep(row)
            self._receipts.keep(request.request_id, 1)
        await self._store.durable()
        return s.SubmissionChanged(row)

    def _keep(self, row: s.Submission) -> None:
        self._version += 1
        row.version = self._version
        self._rows[row.submission_id] = row
        self._rows.move_to_end(row.submission_id)
        self._gone.pop(row.submission_id, None)
        self._table.put(row.submission_id.encode(), row)
        if row.state in ENDED:
            ended = [known.submission_id for known in self._rows.values() if known.state in ENDED]
            for oldest in ended[: max(0, len(ended) - _ENDED_KEPT)]:
                self._forget(oldest)
        self._tell()

    def _forget(self, submission_id: str) -> None:
        self._version += 1
        del self._rows[submission_id]
        self._table.delete(submission_id.encode())
        self._gone[submission_id] = self._version
        while len(self._gone) > _GONE_KEPT:
            self._gone.popitem(last=False)
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _watch(self, request: s.WatchSubmissions) -> s.Submissions:
        version = request.version if request.epoch == self._epoch else 0
        if request.wait_s and version >= self._version and request.epoch == self._epoch:
            try:
                await asyncio.wait_for(self._news.wait(), request.wait_s)
            except TimeoutError:
                return s.Submissions(self._epoch, version)
        reply = s.Submissions(self._epoch, version, complete=version == 0)
        size = 0
        newest_first = takewhile(lambda row: row.version > version, reversed(self._rows.values()))
        for row in reversed(list(newest_first)):
            size += 1000 + len(row.entrypoint) + len(row.runtime_env) + len(row.message)
            size += sum(len(key) + len(value) for key, value in row.metadata.items())
            if size > _LARGEST_ANSWER and reply.rows:
                reply.more = True
                break
            reply.rows.append(row)
            reply.version = row.version
        if not reply.more:
            reply.version = self._version
        if version:
            reply.gone = [name for name, when in self._gone.items() if when > version]
        await self._store.durable()
        return reply
