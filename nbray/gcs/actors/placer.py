"""Finds a process for each actor that waits for one, as long as it takes.

The node that is asked to start an attempt is stored before it is asked, and asked again by a GCS
that comes back; what it answers, and what makes a process impossible, is told to the `Outcomes`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from nbray.common.background import Background
from nbray.gcs.actors.actor import Actor
from nbray.gcs.actors.life import ActorLife
from nbray.gcs.actors.placement import ActorPlacement, Turn, demand_of
from nbray.gcs.actors.processes import NOT_WANTED, ActorProcesses
from nbray.gcs.storage import StorageError, Store, Table
from nbray.scheduling.explain import infeasible_text
from nbray.scheduling.policy import Verdict
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.gcs_messages import ActorStarted, StartActor
from nbray.wire.records import JobConfig, NodeInfo
from nbray.wire.strategies import InGroup

logger = logging.getLogger(__name__)

_RETRY_S = 0.2
_KNOWN_WITHIN_S = 5.0
_LONGEST_WAIT_S = 5.0


class Outcomes(Protocol):
    """What becomes of an actor that is placed."""

    def answered(self, actor: Actor, started: ActorStarted) -> None:
        """The chosen node has made a process, or has not."""

    def group_is_gone(self, actor: Actor) -> None:
        """Its placement group was removed."""

    def end(self, actor: Actor, cause: Cause) -> None:
        """It can have no process."""


class Surroundings(Protocol):
    """What is asked and told outside."""

    def group_is_removed(self, group_id: bytes) -> bool | None:
        """Whether nothing can run in a group any more; None if it is not known."""

    async def warn(self, job: JobConfig, text: str, origin: int) -> None:
        """Show a driver why something of its job, which has that origin, waits."""

    def grows(self) -> bool:
        """Whether an autoscaler may start nodes."""


class Placer:
    """Places actors. ``nodes`` gives the rows, ``lives`` are the rows that are stored."""

    def __init__(
        self,
        nodes: Callable[[], list[NodeInfo]],
        placement: ActorPlacement,
        processes: ActorProcesses,
        store: Store,
        lives: Table[ActorLife],
        around: Surroundings,
        outcomes: Outcomes,
    ) -> None:
        self._nodes = nodes
        self._placement = placement
        self._processes = processes
        self._store = store
        self._lives = lives
        self._around = around
        self._outcomes = outcomes
        self._background = Background()

    def place_soon(self, actor: Actor, after: Coroutine[Any, Any, None] | None = None) -> None:
        """Place it, ``after`` something has happened."""
        if actor.placer is None or actor.placer.done():
            placing = self._place_or_end(actor, after)
            actor.placer = asyncio.get_running_loop().create_task(placing)
        elif after is not None:
            self._background.start(after)

    async def _place_or_end(self, actor: Actor, after: Coroutine[Any, Any, None] | None) -> None:
        """Place an actor; an error of ours ends it, so that its callers hear why."""
        try:
            if after is not None:
                await after
            with self._placement.turn(actor.spec.options) as turn:
                await self._place(actor, turn)
        except Exception as error:
            logger.exception("Actor %s was not placed", actor.spec.class_name)
            if actor.life.unplaced:
                text = f"the GCS could not place it: {error!r}"
                self._outcomes.end(actor, Cause(CauseKind.FAULT, text))

    async def _place(self, actor: Actor, turn: Turn) -> None:
        life = actor.life
        busy: set[bytes] = set()
        began = time.monotonic()
        warned = False
        while life.unplaced:
            attempt = life.restarts
            strategy = actor.spec.options.strategy
            if isinstance(strategy, InGroup) and self._is_group_gone(actor, strategy):
                self._outcomes.group_is_gone(actor)
                return
            node = self._asked(life)
            if node is None:
                if not turn.held:
                    actor.refused = actor.refused or turn.is_far
                    await turn.take()
                    continue  # much may have happened meanwhile
                choice = self._placement.choose(life.actor_id, actor.spec.options, busy)
                node = choice.node
                if choice.cause is not None:
                    self._outcomes.end(actor, choice.cause)
                    return
                if choice.verdict is not Verdict.LATER:
                    turn.give_back()
            if node is None:
                actor.unplaced_since = actor.unplaced_since or time.monotonic()
                if not warned and not isinstance(strategy, InGroup):
                    warned = True
                    await self._warn_infeasible(actor)
                await self._placement.wait_for_change(_LONGEST_WAIT_S)
                continue
            actor.unplaced_since = 0.0
            if life.placing != node.node_id:
                life.placing = node.node_id
                self._lives.put(life.actor_id, life)
                try:
                    await self._store.durable()
                except StorageError:
                    return  # the GCS leaves
                if not life.unplaced or life.restarts != attempt:
                    continue
            waited_s = time.monotonic() - began
            request = StartActor(actor.spec, actor.job, attempt, self._placement.wait_s, waited_s)
            # A constructor may take long; who runs one has found room and is in nobody's way.
            loop = asyncio.get_running_loop()
            passes = loop.call_later(request.wait_s + 1, turn.give_back)
            started = await self._processes.start(node, request)
            passes.cancel()
            if started is None:
                await asyncio.sleep(_RETRY_S)
            elif not life.unplaced or life.restarts != attempt:
                await self._processes.end(node.node_id, life.actor_id, attempt, NOT_WANTED)
            elif started.busy:
                life.placing = b""
                actor.refused = True
                busy.add(node.node_id)
            else:
                self._outcomes.answered(actor, started)

    def _asked(self, life: ActorLife) -> NodeInfo | None:
        """The node that was asked for this attempt, as long as it lives."""
        if not life.placing:
            return None
        return next((n for n in self._nodes() if n.alive and n.node_id == life.placing), None)

    async def _warn_infeasible(self, actor: Actor) -> None:
        demand = demand_of(actor.spec.options)
        rows = [n for n in self._nodes() if n.takes_work]
        why = infeasible_text(demand, rows, grows=self._around.grows())
        text = f"Actor {actor.spec.class_name}: {why}"
        await self._around.warn(actor.job, text, actor.spec.origin)

    def _is_group_gone(self, actor: Actor, strategy: InGroup) -> bool:
        """Whether its group was removed; one that nobody knows may be about to be registered."""
        removed = self._around.group_is_removed(strategy.group_id)
        waited = time.monotonic() - actor.unplaced_since if actor.unplaced_since else 0.0
        return waited > _KNOWN_WITHIN_S if removed is None else removed
