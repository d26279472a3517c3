"""Packages of runtime environments: kept in the key-value space while a job may need them.

Whoever sends or uses a package says so for its job. A package is needed while one of its jobs has
its driver or an actor that lives, as detached ones do, while a submitted job names it that has not
ended, and for ``package_kept_s`` after one without a job has sent it, who is about to submit one.
What nobody needs any more is removed:
after ``package_kept_s``, since programs are often started again, or at once if newer ones of that
kind take more than ``unused_packages_bytes``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from nbray.common.config import Config
from nbray.common.giving_back import give_memory_back
from nbray.gcs.kv.space import KeyValueSpace
from nbray.gcs.storage import Store, Table
from nbray.wire import gcs_messages as g
from nbray.wire.grpc_service import Handler

logger = logging.getLogger(__name__)

_LOOK_S = 5.0


class PackageRow(msgspec.Struct, array_like=True):
    """The jobs that have used a package, as far as they may still need it, and its size."""

    jobs: list[bytes]
    size: int


class PackageTable:
    """The GCS method ``UsePackage``, and the removal of what is not needed.

    Args:
        kv: where the packages are.
        store: where the rows are.
        job_lives: whether a job has its driver or an actor that lives.
        submitted: the packages that submitted jobs name which have not ended.
        config: how much of what is not needed stays, and for how long.
    """

    def __init__(
        self, kv: KeyValueSpace, store: Store, job_lives: Callable[[], Callable[[bytes], bool]],
        submitted: Callable[[], set[str]], config: Config,
    ) -> None:  # fmt: skip
        self._kv = kv
        self._store = store
        self._table = Table(store, "packages", PackageRow)
        self._rows = self._table.all()
        self._job_lives = job_lives
        self._submitted = submitted
        self._config = config
        self._unused: dict[bytes, float] = {}
        self._sent: dict[bytes, float] = {}

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """The method, for the gRPC server."""
        return {"UsePackage": (g.UsePackage, self._use)}

    async def _use(self, request: g.UsePackage) -> g.KvCount:
        """Note a use; whether the package is there, or must be sent."""
        row = self._rows.setdefault(request.uri, PackageRow([], request.size))
        self._unused.pop(request.uri, None)
        if not request.job_id:
            self._sent[request.uri] = time.monotonic()
            row.size = max(row.size, request.size)
            self._table.put(request.uri, row)
        elif request.job_id not in row.jobs:
            row.jobs.append(request.job_id)
            self._table.put(request.uri, row)
        await self._store.durable()  # also of one that is repeated before the first was
        return g.KvCount(int(self._kv.has(request.namespace, request.uri)))

    async def watch(self) -> None:
        """Look for what is not needed, for ever."""
        while True:
            await asyncio.sleep(min(_LOOK_S, self._config.package_kept_s))
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Remove what nobody needs; ``now`` by a clock that is never set."""
        if not self._rows:
            return
        lives = self._job_lives()
        kept_s = self._config.package_kept_s
        self._sent = {uri: when for uri, when in self._sent.items() if now - when < kept_s}
        held = {uri.encode() for uri in self._submitted()} | self._sent.keys()
        for uri, row in self._rows.items():
            needed = [job for job in row.jobs if lives(job)]
            if needed != row.jobs:
                row.jobs = needed
                self._table.put(uri, row)
            if needed or uri in held:
                self._unused.pop(uri, None)
            else:
                self._unused.setdefault(uri, now)
        over = set()
        size = 0
        newest_first = sorted(self._unused, key=lambda uri: self._unused[uri], reverse=True)
        for number, uri in enumerate(newest_first):
            size += self._rows[uri].size
            too_old = now - self._unused[uri] >= kept_s
            too_much = number > 0 and size > self._config.unused_packages_bytes
            if too_old or too_much:
                over.add(uri)
        for uri in over:
            logger.info("Nobody needs the package %s any more.", uri.decode(errors="replace"))
            self._kv.delete(g.PACKAGES, uri)
            self._kv.delete_all(g.PACKAGES, uri + b"#")  # and not env.tar.gz with env.tar
            self._table.delete(uri)
            del self._rows[uri], self._unused[uri]
        if over:
            give_memory_back()
