"""``%nbray start``, ``attach``, ``status``, ``stop``, ``nodes``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from nbray.common.addresses import is_loopback, split
from nbray.common.process import ProcessStartError
from nbray.exceptions import GetTimeoutError, LocalRayletDiedError, NbrayError
from nbray.notebook import ClusterNow, Membership, engine

from .. import widgets
from ..engines import NAMES, choose, refuse
from ..pictures.tables import Table, count, resource_amount, resource_amounts
from . import detached, machines, slurm
from .base import Command, require_cluster
from .parser import Parser, given
from .start_options import (
    add_start_options,
    as_init_has_them,
    as_words,
    given_options,
    refuse_of_head,
)

if TYPE_CHECKING:
    from ..workspace import Workspace


ANSWER_S = 5.0
"""How long a command waits for the cluster."""


def status() -> Table:
    """The cluster at this moment: its nodes and what is free on them."""
    now = _now("status")
    table = _table(now)
    table.title = count(len(table.rows), "node")
    table.notes = [
        f"{name}: {resource_amount(name, now.free.get(name, 0.0))} of "
        f"{resource_amount(name, amount)} free"
        for name, amount in sorted(now.total.items())
        if not name.startswith("node:")
    ]
    return table


def _now(command: str) -> ClusterNow:
    try:
        return engine().cluster.now(ANSWER_S)
    except GetTimeoutError:
        here = engine().cluster.membership()
        if here is not None and here.reconnecting:
            raise UsageError(
                f"%nbray {command}: the connection to the cluster was lost; {here.reconnecting}. "
                "What runs there goes on, and nothing is lost meanwhile."
            ) from None
        raise UsageError(
            f"%nbray {command}: the cluster has not answered within {ANSWER_S:.0f} s. Its GCS or "
            "the raylet of this node stands still or has too much to do; what runs goes on "
            "meanwhile. Ask again later; %nbray logs gcs.log and raylet.log may say more."
        ) from None
    except LocalRayletDiedError as error:
        raise UsageError(
            f"%nbray {command}: this notebook has lost its cluster: {_in_a_line(error)} "
            "%nbray start begins a new one."
        ) from None


def _status(workspace: Workspace, _arguments: argparse.Namespace) -> object:
    """A live widget in a notebook, which falls back to the table; in a terminal the table."""
    if getattr(workspace.shell, "kernel", None) is None or not widgets.available():
        return status()
    kept = status()
    # It stands in a notebook that is opened again, or where there are no widgets.
    kept.notes.append(f"As it was at {time.strftime('%H:%M:%S')}; %nbray status shows it now.")
    return widgets.cluster(kept)


def nodes() -> Table:
    """A row for each node."""
    return _table(_now("nodes"))


def _table(now: ClusterNow) -> Table:
    rows = [
        (
            node["NodeID"][:12],
            node["NodeManagerAddress"],
            node["NodeManagerHostname"],
            "alive" if node["Alive"] else "dead",
            ", ".join(resource_amounts(node["Resources"])),
        )
        for node in sorted(now.nodes, key=lambda node: not node["Alive"])
    ]
    return Table(("node", "address", "host", "state", "resources"), rows)


def _engine_argument(parser: Parser) -> None:
    parser.add_argument(
        "--engine", choices=NAMES, default=None,
        help="whose cluster it is (default: see %%nbray config engine)",
    )  # fmt: skip


def _start_arguments(parser: Parser) -> None:
    parser.add_argument("--head", action="store_true", help="as the shell's command has it")
    add_start_options(parser)
    parser.add_argument("--namespace", help="where the names of actors live")
    _engine_argument(parser)
    parser.add_argument(
        "--detach", action="store_true",
        help="the cluster outlives this kernel: %%nbray attach finds it, the shell's "
        "`nbray stop` ends it",
    )  # fmt: skip
    slurm.add_arguments(parser)


def _start_detached(address: str | None, options: Mapping[str, Any]) -> str:
    """Start a cluster by the command, apart from this kernel; returns its address.

    Raises:
        UsageError: it did not start.
    """
    try:
        return engine().cluster.start_detached(as_words(address, options))
    except RuntimeError as error:
        raise UsageError(f"%nbray start --detach: {error}") from error


def _start(workspace: Workspace, arguments: argparse.Namespace) -> object:
    _leave_lost(workspace)
    choose(workspace, arguments.engine)
    for option in ("address", "slurm"):
        if getattr(arguments, option):
            refuse(f"%nbray start --{option}")
    said = {**given_options(arguments), **given(arguments, "address", "namespace")}
    if engine().api.is_initialized():
        workspace.joined()
        print(_runs_already(said, workspace.start_options))
    else:
        _begin(arguments)
        workspace.joined()
        workspace.start_options = said
    table = status()
    table.notes += _what_next()
    return table


def _runs_already(said: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """What a second start answers: it changes nothing, and names what it was told otherwise."""
    here = engine().cluster.membership()
    ends = "ends" if here is None or here.started_here else "leaves"
    new = [f"--{name.replace('_', '-')}" for name in said if said[name] != before.get(name)]
    if not new:
        return f"nbray runs already; %nbray stop {ends} it."
    return (
        f"nbray runs already, so {', '.join(new)} had no effect: %nbray stop {ends} it, and "
        "%nbray start begins anew."
    )


def _begin(arguments: argparse.Namespace) -> None:
    """Start a cluster, or join one, as a line says.

    Raises:
        UsageError: the line cannot be, or nothing started.
    """
    options = given_options(arguments)
    options.update(slurm.options(arguments, options))
    address, namespace = arguments.address, arguments.namespace
    if address is not None:
        if arguments.head or arguments.slurm:
            raise UsageError(
                "%nbray start: --address joins a cluster; --head and --slurm start one."
            )
        refuse_of_head(options)
    try:
        if arguments.detach:
            started = _start_detached(address, options)
            engine().api.init(started, **given(arguments, "namespace"))
        elif address is not None:
            engine().cluster.join(address, None, namespace, options)
        elif (for_init := as_init_has_them(options)) is not None:
            engine().api.init("local", **for_init, **given(arguments, "namespace"))
        else:
            engine().cluster.start(options, namespace)
    except (NbrayError, OSError, ProcessStartError, ValueError) as error:
        raise UsageError(f"%nbray start: {error}") from error


def _what_next() -> list[str]:
    """Where to look, how the cluster grows, and how it ends."""
    here = engine().cluster.membership()
    assert here is not None
    dashboard = engine().cluster.context().dashboard_url
    if is_loopback(split(here.address)[0]):
        here_too = "" if engine().refusal("%nbray scale") else "%nbray scale 2 adds one here; "
        more = f"{here_too}for others, start with --node-ip-address=ADDRESS of this machine"
    else:
        command = engine().cluster.command
        more = f"`{command} start --address={here.address}` there, with this cluster's token"
    return [
        f"Dashboard: %nbray dashboard opens {dashboard}." if dashboard else "No dashboard runs.",
        f"More machines: {more}.",
        f"%nbray stop {'ends' if here.started_here else 'leaves'} the cluster.",
    ]


def ensure(workspace: Workspace, magic: str) -> None:
    """Have a cluster for a remote cell: one of this machine, or a new one, which a line tells.

    Raises:
        UsageError: there is none, and the settings say that none is started; or it did not start.
    """
    if engine().api.is_initialized():
        return
    if workspace.settings.start_cluster != "yes":
        require_cluster(magic)
    try:
        engine().api.init()
    except (NbrayError, OSError, ValueError) as error:
        raise UsageError(f"{magic}: no cluster yet, and none started: {error}") from error
    workspace.joined()
    here = engine().cluster.membership()
    assert here is not None
    began, ends = (
        ("There was no cluster, so one was started on this machine", "ends it") if here.started_here
        else (f"There was no cluster here, so the one at {here.address} was joined", "leaves it")
    )  # fmt: skip
    print(f"{began}. %nbray stop {ends}, `%nbray config start_cluster no` turns this off.")


def _attach_arguments(parser: Parser) -> None:
    parser.add_argument(
        "address", metavar="ADDRESS|NAME", nargs="?", default="auto",
        help="HOST:PORT of the cluster, nbray://HOST:10001 from afar, or its file (see %%nbray "
        "up), by default the newest of this machine; or the name of a detached cell",
    )  # fmt: skip
    parser.add_argument("--namespace", help="where the names of actors live")
    _engine_argument(parser)


def _attach_cell(workspace: Workspace, name: str, namespace: str | None) -> None:
    """Show a detached cell, in the cluster of this kernel or in the newest of this machine."""
    if not engine().api.is_initialized():
        try:
            engine().api.init("auto", namespace=namespace)
        except (NbrayError, OSError) as error:
            raise UsageError(
                f"%nbray attach: {name!r} is no address, no file, and there is no cluster where a "
                f"detached cell could have that name: {error}"
            ) from error
        workspace.joined()
    detached.attach(workspace, name)


def _attach(workspace: Workspace, arguments: argparse.Namespace) -> object:
    _leave_lost(workspace)
    choose(workspace, arguments.engine)
    if machines.names_cell(arguments.address):
        _attach_cell(workspace, arguments.address, arguments.namespace)
        return None
    if engine().api.is_initialized():
        raise UsageError("%nbray attach: this kernel is in a cluster; %nbray stop first.")
    if machines.names_file(arguments.address):
        machines.attach(arguments.address, arguments.namespace)
        workspace.joined()
        return status()
    try:
        engine().api.init(address=arguments.address, **given(arguments, "namespace"))
    except (NbrayError, OSError) as error:
        raise UsageError(f"%nbray attach: {error}") from error
    workspace.joined()
    return status()


def _in_a_line(error: object) -> str:
    return " ".join(str(error).split())


def _leave_lost(workspace: Workspace) -> None:
    """Leave a cluster that has gone, so that another one can be joined."""
    here = engine().cluster.membership()
    if here is not None and here.lost:
        workspace.left()
        engine().api.shutdown()
        print(
            f"The cluster at {here.address} was lost, and the values in it: {_in_a_line(here.lost)}"
        )


def _stop(workspace: Workspace, _arguments: argparse.Namespace) -> object:
    here = engine().cluster.membership()
    if here is None:
        print("nbray does not run.")
        return None
    print(leave(workspace.left, here))
    return None


def leave(before: Callable[[], None], here: Membership) -> str:
    """Leave the cluster, or end it if it was started here; returns what happened.

    ``before`` lets go of what is kept in it.
    """
    ended = detached.running_names() if here.started_here and not here.lost else []
    before()
    jobs = None if here.lost or not here.started_here else slurm.home_of_cluster()
    engine().api.shutdown()
    if here.lost:
        return f"Left the cluster at {here.address}, which had been lost."
    if here.started_here:
        words = [f"{engine().cluster.command} is stopped."]
        if jobs is not None:
            words.append(slurm.end(jobs))
        if ended:
            words.append(f"Detached cells ended with it: {', '.join(ended)}.")
        return " ".join(words)
    return (
        f"Left the cluster at {here.address}; it runs on. %nbray attach {here.address} joins it "
        f"again, `{engine().cluster.command} stop` in a shell ends it."
    )


COMMANDS = (
    Command("start", "Start a cluster on this machine; harmless when one runs.", _start,
            _start_arguments, needs_cluster=False),
    Command("attach", "Join a cluster that runs, or show a detached cell.", _attach,
            _attach_arguments, {"address": detached.names_to_complete}, needs_cluster=False),
    Command("status", "Nodes and work, live where widgets work.", _status),
    Command("stop", "End the cluster that this notebook started, or leave the one it joined.",
            _stop, needs_cluster=False),
    Command("nodes", "The nodes.", lambda _w, _a: nodes()),
)  # fmt: skip
