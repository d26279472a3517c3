"""The magics: ``%nbray`` for the cluster and ``%%remote`` for cells that run in it."""

from __future__ import annotations

import argparse
import ast
import html
import json
import shlex
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NoReturn

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, line_magic, magics_class
from IPython.display import display

import nbray
from nbray.jupyter_ext.cell_analysis import analyse
from nbray.jupyter_ext.output import OutputRouter
from nbray.jupyter_ext.remote_cell import CannotSendError, submit
from nbray.jupyter_ext.remote_value import (
    RemoteRun,
    Summary,
    error_lines,
    remote_names,
    rendered,
    resolve_names,
)

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line in the cell."""

    def error(self, message: str) -> NoReturn:
        """Raise the message instead of leaving the kernel."""
        raise UsageError(
            f"{self.prog}: {message}. Usage: {' '.join(self.format_usage().split()[1:])}"
        )

    def parse_line(self, line: str) -> argparse.Namespace:
        """Parse what stands behind the magic."""
        try:
            return self.parse_args(shlex.split(line, comments=True))
        except ValueError as error:  # an open quote
            raise UsageError(f"{self.prog}: {error}.") from error


def _resources(text: str) -> dict[str, float]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON ({error})") from error
    if not isinstance(value, dict) or not all(
        isinstance(amount, int | float) for amount in value.values()
    ):
        raise argparse.ArgumentTypeError(f"{text!r} is not like '{{\"name\": 1}}'")
    return value


def _add_resources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--num-cpus", type=float)
    parser.add_argument("--num-gpus", type=float)
    parser.add_argument("--resources", type=_resources, metavar="JSON")


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def _cluster_parser() -> _Parser:
    parser = _Parser(prog="%nbray", add_help=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    start = commands.add_parser("start", add_help=False)
    start.add_argument("--head", action="store_true", help="accepted as the shell's command has it")
    _add_resources(start)
    start.add_argument("--object-store-memory", type=int, metavar="BYTES")
    start.add_argument("--namespace")
    attach = commands.add_parser("attach", add_help=False)
    attach.add_argument("address", metavar="ADDRESS")
    attach.add_argument("--namespace")
    commands.add_parser("status", add_help=False)
    commands.add_parser("stop", add_help=False)
    return parser


def _cell_parser() -> _Parser:
    parser = _Parser(prog="%%remote", add_help=False)
    _add_resources(parser)
    parser.add_argument("--name")
    parser.add_argument("--noblock", action="store_true")
    return parser


class ClusterStatus:
    """A picture of the cluster at one moment: its nodes and what is free on them."""

    def __init__(
        self,
        nodes: Sequence[dict[str, Any]],
        total: dict[str, float],
        available: dict[str, float],
    ) -> None:
        self.rows = [
            (
                str(node.get("NodeID", ""))[:12],
                str(node.get("NodeManagerAddress", "")),
                "alive" if node.get("Alive") else "dead",
                ", ".join(_amounts(node.get("Resources", {}))),
            )
            for node in nodes
        ]
        self.resources = [
            f"{name}: {_amount(name, available.get(name, 0.0))} of {_amount(name, amount)} free"
            for name, amount in sorted(total.items())
            if not name.startswith("node:")
        ]

    def __repr__(self) -> str:
        lines = [f"{len(self.rows)} node{'s' if len(self.rows) != 1 else ''}"]
        lines += ["  " + "  ".join(row) for row in self.rows]
        return "\n".join(lines + self.resources)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{title}</th>" for title in ("node", "address", "state", "resources"))
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        free = "<br>".join(html.escape(line) for line in self.resources)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table><p>{free}</p>"


def _amount(name: str, value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if name.endswith("memory") else f"{value:g}"


def _amounts(resources: dict[str, float]) -> list[str]:
    return [
        f"{name} {_amount(name, value)}"
        for name, value in sorted(resources.items())
        if not name.startswith("node:")
    ]


@magics_class
class NbrayMagics(Magics):
    """``%nbray`` and ``%%remote``."""

    def __init__(self, shell: InteractiveShell, router: OutputRouter) -> None:
        super().__init__(shell)
        self.notebook = shell
        self.router = router
        self.cluster_parser = _cluster_parser()
        self.cell_parser = _cell_parser()

    @line_magic
    def nbray(self, line: str) -> None:
        """Start, attach, look at or stop the cluster.

        ``%nbray start --head [--num-cpus N] [--num-gpus N] [--resources JSON]
        [--object-store-memory BYTES] [--namespace NAME]``, ``%nbray attach ADDRESS``,
        ``%nbray status``, ``%nbray stop``. Starting what runs and stopping what does not is
        harmless.

        Raises:
            UsageError: the line is wrong, or there is no cluster to look at.
        """
        arguments = self.cluster_parser.parse_line(line)
        commands: dict[str, Callable[[argparse.Namespace], None]] = {
            "start": self._start, "attach": self._attach, "status": self._status,
            "stop": self._stop,
        }  # fmt: skip
        commands[arguments.command](arguments)

    def _start(self, arguments: argparse.Namespace) -> None:
        if nbray.is_initialized():
            print("nbray runs already; %nbray stop ends it.")
        else:
            options = _given(
                arguments, "num_cpus", "num_gpus", "resources", "object_store_memory", "namespace"
            )
            nbray.init(**options)
        self.router.mark()
        display(_status())  # type: ignore[no-untyped-call]

    def _attach(self, arguments: argparse.Namespace) -> None:
        if nbray.is_initialized():
            raise UsageError("%nbray attach: this kernel is in a cluster; %nbray stop first.")
        nbray.init(address=arguments.address, **_given(arguments, "namespace"))
        self.router.mark()
        display(_status())  # type: ignore[no-untyped-call]

    def _status(self, _arguments: argparse.Namespace) -> None:
        _require_cluster("%nbray status")
        display(_status())  # type: ignore[no-untyped-call]

    def _stop(self, _arguments: argparse.Namespace) -> None:
        if nbray.is_initialized():
            nbray.shutdown()
            print("nbray is stopped.")
        else:
            print("nbray does not run.")

    @line_cell_magic
    def remote(self, line: str, cell: str | None = None) -> RemoteRun | None:
        """Run the cell in a worker; the names that it assigns stay there until they are used.

        ``%%remote [--num-cpus N] [--num-gpus N] [--resources JSON] [--name TEXT] [--noblock]``

        With ``--noblock`` the notebook goes on at once; output, plots and errors appear here
        when they are made.

        Raises:
            UsageError: the line is wrong, there is no cluster, or a value cannot be sent.
            SyntaxError: the cell is not Python.
            BaseException: what the cell raised.
        """
        if cell is None:
            raise UsageError("%%remote runs a whole cell: write it with two % in the first line.")
        arguments = self.cell_parser.parse_line(line)
        _require_cluster("%%remote")
        label = f"In [{self._cell_number()}]"
        options = _given(arguments, "num_cpus", "num_gpus", "resources", "name")
        source = f"%%remote {line}".rstrip() + "\n" + cell
        namespace = self.notebook.user_ns
        try:
            run, values = submit(source, label, namespace, options)
        except CannotSendError as error:
            raise UsageError(str(error)) from error
        except SyntaxError as error:
            raise error.with_traceback(None) from None
        self.router.leave_unmarked(run.summary_ref.task_id().binary())
        namespace.update(values)
        if arguments.noblock:
            self._show_later(run)
            return run
        try:
            summary = run.wait()
        except BaseException as error:  # whatever the user's cell raised
            raise rendered(error, run, namespace) from None
        for bundle in summary.displays:
            display(bundle, raw=True)  # type: ignore[no-untyped-call]
        return None

    def _cell_number(self) -> int:
        """The number of the cell that runs now; IPython counts it before or after, by version."""
        history = self.notebook.history_manager
        return len(history.input_hist_parsed) - 1 if history is not None else 0

    def _show_later(self, run: RemoteRun) -> None:
        """Show what the run displays or raises in this cell, once it has ended."""
        router, cell = self.router, self.router.current_cell()
        namespace = self.notebook.user_ns

        def show(done: Future[Summary]) -> None:
            error = done.exception()
            if error is not None:
                text = "\n".join(error_lines(error, run, namespace)) + "\n"
                router.publish("stream", {"name": "stderr", "text": text}, cell)
                return
            for bundle in done.result().displays:
                content = {"data": bundle, "metadata": {}, "transient": {}}
                router.publish("display_data", content, cell)

        run.summary_ref.future().add_done_callback(show)


def _status() -> ClusterStatus:
    return ClusterStatus(nbray.nodes(), nbray.cluster_resources(), nbray.available_resources())


def _require_cluster(magic: str) -> None:
    if not nbray.is_initialized():
        raise UsageError(f"{magic}: no cluster yet. Start one with %nbray start --head.")


class ResolveOnUse(ast.NodeTransformer):
    """Before a cell that reads remote names runs, their values take their places.

    The cell gets a first statement that waits for them, so that the wait is part of the cell
    and can be interrupted. A cell which reads no remote name stays as it is.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Put the statement in front."""
        reads = sorted(analyse(node).reads & self._namespace.keys())
        if remote_names(reads, self._namespace):
            call = f"__import__('sys').modules[{__name__!r}].resolve({reads!r})"
            node.body.insert(0, ast.parse(call).body[0])
        return node


def resolve(names: list[str]) -> None:
    """What the statement in front of a cell calls."""
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    assert shell is not None, "called outside of IPython"
    resolve_names(shell.user_ns, names)
