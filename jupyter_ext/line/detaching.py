"""``%%remote --detach NAME``: a cell that goes on whatever becomes of this kernel."""

from __future__ import annotations

import getpass
import os
import platform
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.notebook import engine

from ..cell.actors import InActors
from ..cell.run import Patience
from ..cell.sending import ReadyCell, prepare
from ..cell.spread import OverElements
from ..cell.target import Submitted, Target
from ..cell.task import InTask
from ..commands.detached import follow_here, known_names, shower
from ..engines import refuse
from ..kept.handing import NotKeptError, bring, check_name, hand_over, take_back
from ..kept.orders import HandOver
from ..kept.record import Limits
from ..kept.space import taken
from ..kept.tied import TiedRun
from .options import RemoteOptions
from .targets import target_of

if TYPE_CHECKING:
    from ..workspace import Workspace


def detach(workspace: Workspace, options: RemoteOptions, source: str, label: str) -> None:
    """Hand a cell over to the cluster, and show in this cell what becomes of it.

    Raises:
        UsageError: it cannot be handed over.
    """
    refuse("%%remote --detach")
    name = options.detach or ""
    settings = workspace.settings
    try:
        check_name(name)
        names = known_names()
        if name in names:
            raise NotKeptError(taken(name))
        if len(names) >= settings.kept_cells:
            raise NotKeptError(
                f"{len(names)} detached cells are kept, as many as kept_cells allows. "
                "%nbray results lists them, %nbray results --drop NAME lets go of one"
            )
        target = target_of(workspace, options, label, one_line=False)
        if isinstance(target, InActors):
            raise NotKeptError("actors of this notebook end with it, and what runs in them")
        ready = prepare(workspace, source, f"{name} ({label})", target.wanted)
        workspace.tell_what_was_sent(ready.packed)
        order = _order(workspace, options, ready, target, name, label)
        with workspace.router.for_itself():
            hand_over(order, _running(ready))
    except NotKeptError as error:
        raise UsageError(f"%%remote --detach: {error}.") from error
    here = engine().cluster.membership()
    if here is not None and here.started_here:
        print(
            f"Detached as {name}, in the cluster that this kernel has started and that ends with "
            "it: %nbray start --detach starts one that stays."
        )
    else:
        print(f"Detached as {name}: it goes on without this kernel. %nbray attach {name} shows it.")
    follow_here(workspace, name)


def through_keeper(
    workspace: Workspace,
    options: RemoteOptions,
    ready: ReadyCell,
    target: InTask,
    patience: Patience,
) -> Submitted:
    """Have a keeper run a cell for this notebook, so that it can be let loose while it runs.

    Raises:
        UsageError: it cannot be handed over.
    """
    refuse("%%remote --detach")
    name = f"{re.sub(r'[^0-9A-Za-z]', '', ready.label)}-{os.urandom(4).hex()}"
    order = replace(
        _order(workspace, options, ready, target, name, ready.label),
        tied=engine().api.get_runtime_context().get_job_id(),
    )
    try:
        with workspace.router.for_itself():
            hand_over(order, _running(ready))
            try:
                refs = bring(order)
            except KeyboardInterrupt:
                take_back(order.id)
                raise
    except NotKeptError as error:
        raise UsageError(f"%%remote: {error}.") from error
    run = TiedRun(
        name, ready.label, refs[:1], ready.inputs, source=ready.text.source,
        sent_bytes=ready.sent_bytes, patience=patience, tell=workspace.aside,
    )  # fmt: skip
    run.follow(shower(workspace, lambda: run.known_as))
    changes = refs[1] if ready.cell.brings_changes else None
    return Submitted(ready, run, [refs[1 + ready.cell.brings_changes :]], changes=changes)


def _running(ready: ReadyCell) -> list[str]:
    return [run.label for run in ready.inputs if run.state() == "running"]


def _order(
    workspace: Workspace, options: RemoteOptions, ready: ReadyCell, target: Target, name: str,
    label: str,
) -> HandOver:  # fmt: skip
    settings = workspace.settings
    elements = None
    if isinstance(target, OverElements) and (values := target.values()):
        elements = engine().api.put(values), len(values)
        target = target.without_values()
    task = dict(options.task)
    if own := engine().user_environment():
        task["runtime_env"] = {**own, **task.get("runtime_env", {})}
    return HandOver(
        name, label, f"{getpass.getuser()}@{platform.node()}", ready.text, ready.cell, ready.names,
        ready.arguments, workspace.setup.cells(), task, target, workspace.modules.place(),
        Limits(display_bytes=settings.kept_output, store_bytes=settings.kept_results), elements,
    )  # fmt: skip
