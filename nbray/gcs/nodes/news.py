"""Raylets are told of each other: by a call that waits for news, in waves.

What is new to whom, `nbray.gcs.nodes.view` knows. Those that have seen the same are answered with
the same bytes, encoded once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import structs

from nbray.gcs.nodes.life import NodeLife
from nbray.gcs.nodes.pace import wave_s
from nbray.gcs.nodes.view import News, NodeView, Seen
from nbray.wire import gcs_messages as g
from nbray.wire.records import BundleInfo, NodeInfo

logger = logging.getLogger(__name__)

_WATCH_S = 60.0
_ALL_KNOW_S = 1.0
_ALL_KNOW_NODES = 64
_encode = msgspec.msgpack.Encoder().encode


class NodeNews:
    """The GCS method ``WatchNodes``.

    ``nodes`` are all that have a row, ``alive`` those of them that are alive.
    """

    def __init__(self, nodes: Mapping[bytes, NodeLife], alive: Mapping[bytes, NodeLife]) -> None:
        self._nodes = nodes
        self._alive = alive
        self._epoch = os.urandom(8)
        self._view = NodeView()
        self._rooms: dict[bytes, bytes] = {}
        self._told: dict[bytes, int] = {}
        self._somebody_told = asyncio.Event()
        self._news = asyncio.Event()
        self._answers: dict[Seen | None, msgspec.Raw] = {}
        self._waves = 0
        self._served: dict[bytes, int] = {}
        self._wave_at = 0.0
        self._wave: asyncio.TimerHandle | None = None

    def joined(self, row: NodeInfo) -> None:
        """A node is new, or known from the store."""
        self._rooms[row.node_id] = _encode(_room(row))
        self._view.member_changed(row.node_id)
        self._tell()

    def reported(self, row: NodeInfo) -> None:
        """A row came; what counts is what others were told, not what the GCS charged since."""
        room = _encode(_room(row))
        if self._rooms.get(row.node_id) != room:
            self._rooms[row.node_id] = room
            self._view.room_changed(row.node_id)
            self._tell()

    def changed(self, node_id: bytes) -> None:
        """A node is to be known otherwise than before, as one that drains."""
        self._view.member_changed(node_id)
        self._tell()

    def ended(self, node_id: bytes) -> None:
        """A node is not alive any more."""
        for of_living in (self._rooms, self._told, self._served):
            of_living.pop(node_id, None)
        self._view.room_gone(node_id)
        self._view.member_changed(node_id)
        self._tell()

    def forget(self, node_id: bytes) -> None:
        """The row of a node that died long ago is dropped."""
        self._view.forget(node_id)

    async def watch(self, request: g.WatchNodes) -> g.NodeChanges | msgspec.Raw:
        """What a raylet has not seen; it waits for that, at most a minute.

        It is answered once a wave, so that the news of a busy cluster come together.
        """
        node_id, seen = request.node_id, None
        if request.epoch == self._epoch:
            seen = Seen(request.members, request.rooms)
            if node_id in self._alive:
                self._told[node_id] = request.members
                self._somebody_told.set()
        until = asyncio.get_running_loop().time() + _WATCH_S
        while True:
            if seen is None or self._served.get(node_id) != self._waves:
                answer = self._answers.get(seen) or self._answer(seen)
                if answer is not None:
                    if node_id in self._alive:
                        self._served[node_id] = self._waves
                    return answer
            elif seen != self._view.seen:
                self._tell()
            news = self._news
            try:
                async with asyncio.timeout_at(until):
                    await news.wait()
            except TimeoutError:
                at = self._view.seen if seen is None else seen
                return g.NodeChanges(self._epoch, at.members, at.rooms)

    def listed(self, rows: list[NodeInfo]) -> g.Nodes:
        """All rows for whoever asks, who can tell whether news have overtaken them."""
        self._tell_charged(rows)
        seen = self._view.seen
        return g.Nodes(rows, self._epoch, seen.members, seen.rooms)

    def _answer(self, seen: Seen | None) -> msgspec.Raw | None:
        """What raylets are told who have seen the same; encoded once for all of them."""
        news = self._view.news(seen, self._alive)
        if news is None:
            return None
        answer = self._answers[seen] = msgspec.Raw(_encode(self._changes(news)))
        return answer

    def _changes(self, news: News) -> g.NodeChanges:
        members = [self._nodes[n].row for n in news.members]
        others = [self._nodes[n].row for n in news.rooms]
        self._tell_charged([*members, *others])
        return g.NodeChanges(
            self._epoch, news.seen.members, news.seen.rooms,
            [_told(row) for row in members],
            [g.NodeRoom(row.node_id, *_room(row)) for row in others],
            news.complete,
        )  # fmt: skip

    def _tell_charged(self, rows: Iterable[NodeInfo]) -> None:
        """Rows are told as they are now: of one that the GCS has charged, the next report is news.

        A node that is then as it was before would be known as charged for ever.
        """
        for row in rows:
            room = self._rooms.get(row.node_id)
            if room and room != _encode(_room(row)):
                self._rooms[row.node_id] = b""

    def _tell(self) -> None:
        """Something changed: raylets that wait are told, in a large cluster not at once."""
        if self._wave is None:
            now = time.monotonic()
            later = max(0.0, self._wave_at + wave_s(len(self._alive)) - now)
            self._wave = asyncio.get_running_loop().call_later(later, self._wake)

    def _wake(self) -> None:
        self._wave = None
        self._wave_at = time.monotonic()
        self._waves += 1
        self._answers.clear()
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def all_know(self, but: bytes) -> None:
        """Wait until all raylets have heard of the present members; in a small cluster.

        One that has never asked is told of all when it does.
        """
        wanted = self._view.seen.members
        if len(self._alive) > _ALL_KNOW_NODES:
            return
        try:
            async with asyncio.timeout(_ALL_KNOW_S):
                while any(seen < wanted for n, seen in self._told.items() if n != but):
                    self._somebody_told.clear()
                    await self._somebody_told.wait()
        except TimeoutError:
            logger.info("Not every raylet has heard of node %s yet.", but.hex()[:8])


def _told(row: NodeInfo) -> NodeInfo:
    """What others need of a row."""
    return structs.replace(row, stats={}, kept_by=[], idle_s=0.0, silent_s=0.0, received_from={})


def _room(row: NodeInfo) -> tuple[dict[str, int], dict[str, int], list[BundleInfo]]:
    return row.available, row.returning, row.bundles
