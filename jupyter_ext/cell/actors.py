"""Cells that run inside actors: a namespace that stays (``%%remote --actor NAME``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

import nbray

from ..worker.running import RemoteNamespace, run_in_actor
from .run import Patience, RemoteRun

if TYPE_CHECKING:
    from ..workspace import Workspace
    from .sending import ReadyCell

_TASK_ONLY = ("name", "max_retries")


class ActorRun(RemoteRun):
    """A cell that runs in an actor. Killing it ends the actor."""

    actors: tuple[nbray.ActorHandle, ...] = ()

    def cancel(self, force: bool = False) -> None:
        """Ask the cell to stop; with ``force`` end the actor, and what it knows with it."""
        if force:
            for actor in self.actors:
                nbray.kill(actor)
        super().cancel(force)


def find_or_make(
    workspace: Workspace, name: str, options: Mapping[str, Any], make: bool
) -> nbray.ActorHandle:
    """The actor of that name; made when it is new and ``make``.

    Raises:
        UsageError: there is none, and it is not to be made.
    """
    actor: nbray.ActorHandle
    try:
        actor = nbray.get_actor(name)
        return actor
    except ValueError:
        workspace.actors.pop(name, None)
        if not make:
            raise UsageError(
                f"%%remote: there is no actor {name!r}; %%remote --actor {name} makes one."
            ) from None
    resources = {key: value for key, value in options.items() if key not in _TASK_ONLY}
    actor = nbray.remote(RemoteNamespace).options(name=name, **resources).remote()
    workspace.actors[name] = actor
    return actor


def submit_to_actors(
    workspace: Workspace,
    ready: ReadyCell,
    actors: Mapping[str, nbray.ActorHandle],
    patience: Patience,
) -> tuple[RemoteRun, list[list[nbray.ObjectRef]]]:
    """Run a prepared cell in each of these actors.

    Returns:
        The run, and for each actor the refs of what comes back.
    """
    made = []
    for actor in actors.values():
        call = actor.__ray_call__.options(
            num_returns=ready.cell.returns, name=f"cell {ready.label}"
        )
        refs = call.remote(
            run_in_actor, workspace.key, ready.cell, workspace.setup.payload(), *ready.arguments
        )
        made.append(refs if isinstance(refs, list) else [refs])
    run = ActorRun(
        ready.label, [refs[0] for refs in made], ready.inputs, source=ready.text.source,
        sent_bytes=ready.sent_bytes, patience=patience,
    )  # fmt: skip
    run.actors = tuple(actors.values())
    workspace.runs.append(run)
    return run, [refs[1:] for refs in made]
