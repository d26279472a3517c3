"""Cells that run inside actors: a namespace that stays (``%%remote --actor NAME``)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError

from nbray.notebook import ActorHandle, engine

from ..worker.running import RemoteNamespace, run_in_actor
from .run import RemoteRun
from .sending import Wanted
from .target import Order, Submitted

_TASK_ONLY = ("name", "max_retries")


class ActorRun(RemoteRun):
    """A cell that runs in an actor. Killing it ends the actor."""

    actors: tuple[ActorHandle, ...] = ()

    def cancel(self, force: bool = False) -> None:
        """Ask the cell to stop; with ``force`` end the actor, and what it knows with it."""
        if force:
            for actor in self.actors:
                engine().api.kill(actor)
        super().cancel(force)


class CellActors:
    """The actors that this notebook's cells run in.

    Attributes:
        key: under which they keep the names of its cells.
        reads: what the functions that cells defined in an actor read, by its name.
    """

    def __init__(self) -> None:
        self.key = os.urandom(8).hex()
        self.reads: dict[str, set[str]] = {}
        self._made: dict[str, ActorHandle] = {}

    def clear(self) -> None:
        """The cluster has gone."""
        self.reads.clear()
        self._made.clear()

    def find_or_make(self, name: str, options: Mapping[str, Any], make: bool) -> ActorHandle:
        """The actor of that name; made when it is new and ``make``.

        Raises:
            UsageError: there is none, and it is not to be made.
        """
        actor: ActorHandle
        try:
            actor = engine().api.get_actor(name)
            return actor
        except ValueError:
            self._made.pop(name, None)
            if not make:
                raise UsageError(
                    f"%%remote: there is no actor {name!r}; %%remote --actor {name} makes one."
                ) from None
        resources = {key: value for key, value in options.items() if key not in _TASK_ONLY}
        actor = engine().api.remote(RemoteNamespace).options(name=name, **resources).remote()
        self._made[name] = actor
        return actor


class InActors:
    """Once in each of these actors."""

    def __init__(
        self,
        wanted: Wanted,
        known: CellActors,
        names: Sequence[str],
        options: Mapping[str, Any],
        make: bool,
    ) -> None:
        """Find the actors, or make them with these options; raises as `find_or_make` does."""
        self._known = known
        self._actors = {name: known.find_or_make(name, options, make) for name in names}
        later = {name for actor in self._actors for name in known.reads.get(actor, ())}
        self.wanted = replace(wanted, also=later)

    def submit(self, order: Order) -> Submitted:
        """See `Target`."""
        known, titles = self._known, list(self._actors)
        for name in titles:
            known.reads.setdefault(name, set()).update(order.ready.text.names.deferred)
        made = [
            order.call(actor.__ray_call__, {}, (run_in_actor, known.key))
            for actor in self._actors.values()
        ]
        run = order.run(ActorRun, made)
        run.actors = tuple(self._actors.values())
        several = len(made) > 1
        return Submitted(
            order.ready, run, [refs[1:] for refs in made],
            several=several, titles=titles if several else (),
        )  # fmt: skip
