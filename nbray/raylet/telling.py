"""What a raylet tells the others: in order, until it was heard, and each piece once.

A peer that stands still, or a connection that breaks, lets a call fail though both live on. What
was lost with it would never be made good: an object that nobody refers to would stay, and the only
copy of another one might be evicted since nobody has said that it is. So all that is told to one
node waits in one line and is repeated until it is answered, or the node is dead. By its number a
node knows what it has heard before: an old "free" that is repeated would free what was made since.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from nbray.common.background import Background
from nbray.common.sparing_log import SparingLog
from nbray.wire.gcs_messages import Empty
from nbray.wire.grpc_service import GrpcClient, Handler
from nbray.wire.raylet_messages import News, TakeNews

logger = logging.getLogger(__name__)
_log = SparingLog(logger)

_AGAIN_S = 0.5
_AT_ONCE = 1000
_SENDERS_KEPT = 10_000


class _Nodes(Protocol):
    async def client(self, node_id: bytes) -> GrpcClient | None:
        """As `NodeTable.client`."""


class Telling:
    """Tells other nodes, and hears from them.

    Attributes:
        handlers: what is done with each kind of news.
    """

    def __init__(self, nodes: _Nodes) -> None:
        self.handlers: dict[type, Callable[[Any], None]] = {}
        self._nodes = nodes
        self._own = os.urandom(16)
        self._number = 0
        self._waiting: dict[bytes, list[News]] = {}
        self._heard: OrderedDict[bytes, int] = OrderedDict()
        self._background = Background()

    def services(self) -> dict[str, tuple[Any, Handler]]:
        """What other raylets call."""
        return {"TakeNews": (TakeNews, self._take)}

    def tell(self, node_id: bytes, news: News) -> None:
        """Have another node hear that, after what it was told before."""
        waiting = self._waiting.get(node_id)
        if waiting is not None:
            waiting.append(news)
            return
        self._waiting[node_id] = [news]
        self._background.start(self._send_all(node_id))

    async def _send_all(self, node_id: bytes) -> None:
        try:
            while waiting := self._waiting[node_id]:
                self._number += 1
                request = TakeNews(self._own, self._number, waiting[:_AT_ONCE])
                del waiting[:_AT_ONCE]
                while not await self._is_heard(node_id, request):
                    await asyncio.sleep(_AGAIN_S)
        finally:
            del self._waiting[node_id]

    async def _is_heard(self, node_id: bytes, request: TakeNews) -> bool:
        """Whether the node has heard that, or is dead: what it concerns has gone with it."""
        try:
            client = await self._nodes.client(node_id)
            if client is not None:
                await client.call("TakeNews", request, Empty)
        except Exception as error:  # an RpcError, or what else a call may run into
            _log.warning("Node %s has not heard the news yet: %r", node_id.hex()[:8], error)
            return False
        return True

    async def _take(self, request: TakeNews) -> Empty:
        if request.number > self._heard.get(request.sender, 0):
            self._heard[request.sender] = request.number
            self._heard.move_to_end(request.sender)
            if len(self._heard) > _SENDERS_KEPT:
                self._heard.popitem(last=False)
            for news in request.news:
                try:
                    self.handlers[type(news)](news)
                except Exception:  # what follows has to be heard all the same
                    logger.exception("News of another node were not taken in")
        return Empty()
