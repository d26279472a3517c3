"""Which target the options of a line choose."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..cell.actors import InActors
from ..cell.analysis import analyse
from ..cell.nodes import OnNodes, OnWorkers
from ..cell.sending import Wanted, prepare
from ..cell.setup_cells import AsSetUp
from ..cell.spread import OverElements, elements_of
from ..cell.target import Target
from ..cell.task import InTask
from .options import RemoteOptions, Spread

if TYPE_CHECKING:
    from ..workspace import Workspace


def target_of(workspace: Workspace, options: RemoteOptions, label: str, one_line: bool) -> Target:
    """Where a cell with these options runs.

    Raises:
        UsageError: there is no such place.
        BaseException: what an earlier cell raised whose values ``--map`` names.
    """
    wanted = Wanted(options.out or (), last=one_line)
    match options:
        case RemoteOptions(every=True):
            nothing = Wanted(())
            return AsSetUp(
                workspace.setup, partial(prepare, workspace, "%remote\npass", label, nothing)
            )
        case RemoteOptions(spread=Spread(variables, expression)):
            namespace = workspace.namespace
            workspace.resolve(sorted(analyse(expression).needs & namespace.keys()))
            elements = elements_of(expression, variables, namespace)
            last = options.out is None
            return OverElements(replace(wanted, last=last, variables=variables), elements)
        case RemoteOptions(targets=("nodes",)):
            return OnNodes(wanted)
        case RemoteOptions(targets=("workers",)):
            return OnWorkers(wanted)
        case RemoteOptions(actor=str(name)):
            return InActors(wanted, workspace.actors, (name,), options.task, make=True)
        case RemoteOptions(targets=(_, *_) as names):
            return InActors(wanted, workspace.actors, names, options.task, make=False)
    changes = options.out is None and not options.noblock
    return InTask(Wanted(options.out, last=one_line, changes=changes))
