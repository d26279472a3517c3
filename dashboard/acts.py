"""What changes something: it needs a login, a page of this origin, and that page's own token.

A cookie travels by itself, also where another page of this host makes the browser send it; the
token stands in the page, and no other origin can read it. Whoever may only read has none.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from nbray.state import queries as q
from nbray.state.client import RpcError

from .parts.cluster import Cluster
from .parts.continuous import Continuous
from .parts.flame import Result, Results
from .parts.page import NotFoundError, find

logger = logging.getLogger(__name__)

_PROFILE_S = 5.0
_ANSWER_S = 25.0


@dataclass(frozen=True)
class Done:
    """What is said of it, and the page to which it leads."""

    said: str
    go: str = ""


class Acts:
    """What can be done, by name; each takes what the button said and answers in a sentence."""

    def __init__(self, cluster: Cluster, profiles: Results, continuous: Continuous) -> None:
        self._cluster = cluster
        self._continuous = continuous
        self._profiles = profiles
        self.known: dict[str, Callable[[dict[str, str]], Awaitable[Done]]] = {
            "end-actor": self._end_actor,
            "profile": self._profile,
            "flames": self._flames,
        }

    async def _end_actor(self, said: dict[str, str]) -> Done:
        rows = await self._cluster.actors()
        actor = find(rows, said.get("id", ""), "actor", lambda row: row.actor_id)
        await self._cluster.client.kill_actor(actor.actor_id)
        logger.info("Actor %s was ended from a page.", actor.actor_id)
        return Done(f"Actor {actor.actor_id[:8]} ends.")

    async def _profile(self, said: dict[str, str]) -> Done:
        workers, _missing = await self._cluster.workers()
        worker = find(workers, said.get("id", ""), "process", lambda row: row.worker_id)
        kind = said.get("kind", "")
        if kind not in ("stack", "flame", "memory"):
            raise NotFoundError(f"There is no profile {kind!r}.")
        seconds = 0.0 if kind == "stack" else _PROFILE_S
        query = q.profile(worker.node_id, worker.worker_id, seconds, kind == "memory")
        found = await self._cluster.client.ask(query, seconds + _ANSWER_S)
        number = self._profiles.add(
            Result(worker.worker_id, kind, found.how, found.counts, found.error)
        )
        return Done("It is made.", f"profile?id={worker.worker_id}&run={number}")

    async def _flames(self, said: dict[str, str]) -> Done:
        kind, node, process = (said.get(key, "") for key in ("kind", "node", "id"))
        if not self._continuous.start((kind, node, process)):
            return Done("As much is looked at as may be: close another page of flames first.")
        return Done("It begins.")


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
            done = await act(facts)
            self._answer(200, done.said, done.go)
        except NotFoundError as error:
            self._answer(404, str(error))
        except RpcError as error:
            self._answer(503, str(error) or "The cluster does not answer.")

    def _facts(self) -> dict[str, str]:
        try:
            said: Any = json.loads(self.request.body)
        except ValueError:
            return {}
        if not isinstance(said, dict):
            return {}
        return {str(key): value for key, value in said.items() if isinstance(value, str)}

    def _answer(self, status: int, text: str, go: str = "") -> None:
        self.set_status(status)
        self.finish({"said": text, "go": go})
