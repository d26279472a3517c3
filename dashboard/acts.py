"""What changes something: it needs a login, a page of this origin, and that page's own token.

A cookie travels by itself, also where another page of this host makes the browser send it; the
token stands in the page, and no other origin can read it. Whoever may only read has none.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from nbray.state.client import RpcError

from .parts.cluster import Cluster
from .parts.page import NotFoundError, find

logger = logging.getLogger(__name__)


class Acts:
    """What can be done, by name; each takes what the button said and answers in a sentence."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.known: dict[str, Callable[[dict[str, str]], Awaitable[str]]] = {
            "end-actor": self._end_actor,
        }

    async def _end_actor(self, said: dict[str, str]) -> str:
        rows = await self._cluster.actors()
        actor = find(rows, said.get("id", ""), "actor", lambda row: row.actor_id)
        await self._cluster.client.kill_actor(actor.actor_id)
        logger.info("Actor %s was ended from a page.", actor.actor_id)
        return f"Actor {actor.actor_id[:8]} ends."


class Act(RequestHandler):
    """``POST /act`` with ``{"act": NAME, ...}``."""

    def initialize(self, acts: Acts, may_change: Callable[[HTTPServerRequest], bool]) -> None:
        self._acts = acts
        self._may_change = may_change

    def check_xsrf_cookie(self) -> None:
        """The page's token is more than that."""

    async def post(self) -> None:
        """Do it."""
        if not self._may_change(self.request):
            self._answer(403, "Only a page of this dashboard may do that.")
            return
        facts = self._facts()
        act = self._acts.known.get(facts.get("act", ""))
        if act is None:
            self._answer(404, "There is no such thing to do.")
            return
        try:
            async with asyncio.timeout(30):
                self._answer(200, await act(facts))
        except NotFoundError as error:
            self._answer(404, str(error))
        except (RpcError, TimeoutError) as error:
            self._answer(503, str(error) or "The cluster does not answer.")

    def _facts(self) -> dict[str, str]:
        try:
            said: Any = json.loads(self.request.body)
        except ValueError:
            return {}
        if not isinstance(said, dict):
            return {}
        return {str(key): value for key, value in said.items() if isinstance(value, str)}

    def _answer(self, status: int, text: str) -> None:
        self.set_status(status)
        self.finish({"said": text})
