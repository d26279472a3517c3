"""The magics: ``%nbray`` for the cluster, ``%%remote`` and ``%remote`` for code that runs in it."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import (
    Magics,
    line_cell_magic,
    line_magic,
    magics_class,
    no_var_expand,
)
from IPython.display import display

import nbray
from nbray import ObjectRef

from ..cell.actors import find_or_make, submit_to_actors
from ..cell.analysis import analyse
from ..cell.arriving import Arriving
from ..cell.nodes import SubmitTo, submit_to_nodes, submit_to_workers
from ..cell.remote_value import remote_names
from ..cell.run import Detached, Patience, RemoteRun, told_changes
from ..cell.sending import ReadyCell, Wanted, prepare, submit
from ..cell.spread import SpreadRun, submit_spread
from ..cell.text import NotRemoteError
from ..cell.values import CannotSendError
from ..commands.base import require_cluster
from ..commands.parser import HelpShown
from ..commands.table import COMMANDS
from ..messages import LAST, SetupCell, Summary
from ..pictures.tables import Table
from ..words import did_you_mean, split
from .options import RemoteOptions, parse_cell, parse_line

if TYPE_CHECKING:
    from ..workspace import Workspace


@magics_class
class NbrayMagics(Magics):
    """``%nbray``, ``%%remote`` and ``%remote``."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(workspace.shell)
        self.workspace = workspace

    @no_var_expand
    @line_magic
    def nbray(self, line: str) -> None:
        """Start, look at and stop the cluster: ``%nbray help`` lists the commands.

        Raises:
            UsageError: the line is wrong, or there is no cluster to look at.
        """
        words = split(line, "%nbray")
        if not words or words[0] in ("help", "--help", "-h"):
            command = COMMANDS.get(words[1]) if len(words) > 1 else None
            if command is not None:
                command.parser().print_help()
                return
            _show(_overview())
            return
        command = COMMANDS.get(words[0])
        if command is None:
            hint = did_you_mean(words[0], COMMANDS)
            raise UsageError(f"%nbray: there is no command {words[0]!r}.{hint} See %nbray help.")
        try:
            shown = command(self.workspace, words[1:])
        except HelpShown:
            return
        if shown is not None:
            _show(shown)

    @no_var_expand
    @line_cell_magic
    def remote(self, line: str, cell: str | None = None) -> Any:
        """Run the cell, or the rest of the line, in a worker; ``%%remote --help`` has the options.

        Raises:
            UsageError: the line is wrong, there is no cluster, or a value cannot be sent.
            SyntaxError: the code is not Python.
            BaseException: what the code raised.
        """
        try:
            if cell is None:
                options, code = parse_line(line)
                source, one_line = "%remote\n" + code, True
            else:
                options = parse_cell(line)
                source, one_line = f"%%remote {line}".rstrip() + "\n" + cell, False
        except HelpShown:
            return None
        require_cluster("%remote" if one_line else "%%remote")
        try:
            return self._run(options, source, one_line)
        except (CannotSendError, NotRemoteError) as error:
            raise UsageError(str(error)) from error
        except SyntaxError as error:
            raise error.with_traceback(None) from None

    def _run(self, options: RemoteOptions, source: str, one_line: bool) -> Any:
        if options.every:
            return self._set_up(options, source)
        if options.spread is not None:
            return self._spread(options, source)
        if options.targets in _EVERYWHERE:
            return self._everywhere(options, source, one_line)
        if options.targets or options.actor is not None:
            return self._in_actors(options, source, one_line)
        workspace = self.workspace
        changes = options.out is None and not options.noblock
        wanted = Wanted(options.out, last=one_line, changes=changes)
        ready = prepare(workspace, source, workspace.cell_label(), wanted)
        sent = submit(workspace, ready, options.task, self._patience(options))
        run = sent.run
        workspace.router.leave_unmarked(run.summary_ref.task_id().binary())
        arriving = Arriving(
            workspace.namespace, ready.names, ready.certain, run, sent.refs, sent.changes
        )
        if options.noblock:
            arriving.promise()
            self._show_later(run)
            return run
        self._finish(run, arriving)
        if options.gather or one_line:
            workspace.resolve(ready.names)
        return workspace.own(nbray.get(sent.refs[-1])) if one_line else None

    def _patience(self, options: RemoteOptions) -> Patience:
        settings = self.workspace.settings
        return Patience(
            options.timeout,
            options.on_interrupt or settings.on_interrupt,
            settings.interrupt_grace,
        )

    def _finish(
        self, run: RemoteRun, arriving: Arriving | None = None, titles: Sequence[str] = ()
    ) -> None:
        """Wait for a run, give its names their values, and show what it displays."""
        try:
            summaries = run.wait()
            if arriving is not None:
                arriving.succeed(summaries[0])
        except Detached as error:
            if arriving is not None:
                arriving.promise()
            self._show_later(run)
            raise self.workspace.rendered(error, run) from None
        except BaseException as error:  # whatever the user's cell raised
            if arriving is not None:
                arriving.fail()
            raise self.workspace.shown_error(error, run) from None
        for number, summary in enumerate(summaries):
            if titles and summary.displays:
                print(f"{titles[number]}:")
            for bundle in summary.displays:
                display(bundle, raw=True)  # type: ignore[no-untyped-call]
        self._tell_changes(summaries)

    def _tell_changes(self, summaries: Sequence[Summary]) -> None:
        text = told_changes(summaries)
        if text:
            print(text)

    def _show_later(self, run: RemoteRun) -> None:
        """Show what the run displays or raises in this cell, once it has ended."""
        workspace = self.workspace
        router, cell = workspace.router, workspace.router.current_cell()

        def show(done: Future[Summary]) -> None:
            error = done.exception()
            if error is not None:
                text = "\n".join(workspace.error_lines(error, run)) + "\n"
                router.publish("stream", {"name": "stderr", "text": text}, cell)
                return
            summary = done.result()
            for bundle in summary.displays:
                content = {"data": bundle, "metadata": {}, "transient": {}}
                router.publish("display_data", content, cell)
            if text := told_changes([summary]):
                router.publish("stream", {"name": "stdout", "text": text + "\n"}, cell)

        if isinstance(run, SpreadRun):
            run.watch(show)
            return
        for ref in run.refs:
            ref.future().add_done_callback(show)

    # --- other ways to run a cell --------------------

    def _set_up(self, options: RemoteOptions, source: str) -> None:
        workspace = self.workspace
        label = workspace.cell_label()
        ready = prepare(workspace, source, label, Wanted())
        first = RemoteRun(label, [nbray.put(None)], (), source=source).what()
        name = options.task.get("name") or first
        setup = SetupCell("", ready.cell, tuple(ready.arguments))
        workspace.setup.make(name, label, first, setup)
        check = prepare(workspace, "%remote\npass", label, Wanted(()))
        run = submit(workspace, check, options.task, self._patience(options)).run
        workspace.router.leave_unmarked(run.summary_ref.task_id().binary())
        try:
            self._finish(run)
        except BaseException:
            workspace.setup.drop(name)
            raise
        print(f"Every worker runs this before its next remote cell (set-up cell {name!r}).")

    def _spread(self, options: RemoteOptions, source: str) -> list[Any] | SpreadRun | None:
        workspace = self.workspace
        spread = options.spread
        assert spread is not None
        names = analyse(spread.expression).needs
        workspace.resolve(sorted(names & workspace.namespace.keys()))
        try:
            elements = list(eval(spread.expression, workspace.namespace))
        except Exception as error:  # the user's expression
            raise UsageError(f"%%remote --map: {spread.expression}: {error}") from error
        count = len(spread.variables)
        if count > 1 and any(len(element) != count for element in elements):
            raise UsageError(f"%%remote --map: an element does not have {count} values.")
        wanted = Wanted(options.out or (), last=options.out is None)
        ready = prepare(workspace, source, workspace.cell_label(), wanted, spread.variables)
        if not elements:
            columns: list[list[Any]] = [[] for _ in ready.cell.assigns]
        else:
            run = submit_spread(
                workspace, ready, elements, count, options.task, self._patience(options)
            )
            run.wanted = options.out or ()
            if options.noblock:
                self._show_later(run)
                return run
            try:
                columns = workspace.own(run.collect())
            except BaseException as error:  # whatever the user's cell raised
                raise self._spread_error(error, spread.variables) from None
            self._finish(run)
        if options.out is None:
            return columns[0]
        workspace.namespace.update(zip(ready.names, columns, strict=True))
        return None

    def _spread_error(self, error: BaseException, variables: Sequence[str]) -> BaseException:
        run = self.workspace.runs[-1]
        rendered: BaseException = self.workspace.shown_error(error, run)
        if isinstance(rendered, SystemExit):
            return rendered
        if isinstance(run, SpreadRun) and (place := run.failed_at) is not None:
            value = repr(run.elements[place])
            short = value if len(value) <= 80 else value[:77] + "..."
            lines = rendered.__dict__["_render_traceback_"]()
            where = f"Element {place + 1} of {len(run.refs)}: {', '.join(variables)} = {short}"
            rendered.__dict__["_render_traceback_"] = lambda: [*lines, where]
        return rendered

    def _in_actors(self, options: RemoteOptions, source: str, one_line: bool) -> Any:
        workspace = self.workspace
        names = (options.actor,) if options.actor is not None else options.targets
        actors = {
            name: find_or_make(workspace, name, options.task, make=options.actor is not None)
            for name in names
            if name is not None
        }
        wanted = Wanted(options.out or (), last=one_line)
        later = {name for actor in actors for name in workspace.actor_reads.get(actor, ())}
        ready = prepare(workspace, source, workspace.cell_label(), wanted, also=later)
        for actor in actors:
            workspace.actor_reads.setdefault(actor, set()).update(ready.text.names.deferred)
        run, columns = submit_to_actors(workspace, ready, actors, self._patience(options))
        for ref in run.refs:
            if len(actors) == 1:
                workspace.router.leave_unmarked(ref.task_id().binary())
        return self._results(options, ready, run, columns, list(actors))

    def _everywhere(self, options: RemoteOptions, source: str, one_line: bool) -> Any:
        workspace = self.workspace
        wanted = Wanted(options.out or (), last=one_line)
        ready = prepare(workspace, source, workspace.cell_label(), wanted)
        submit_to = _EVERYWHERE[options.targets]
        run, columns, titles = submit_to(workspace, ready, options.task, self._patience(options))
        return self._results(options, ready, run, columns, titles, always_list=True)

    def _results(
        self,
        options: RemoteOptions,
        ready: ReadyCell,
        run: RemoteRun,
        columns: list[list[ObjectRef]],
        titles: list[str],
        always_list: bool = False,
    ) -> Any:
        """What comes back from one target is a value, from several a list in their order."""
        namespace = self.workspace.namespace
        several = always_list or len(titles) > 1
        arriving = (
            None if several else Arriving(namespace, ready.names, ready.certain, run, columns[0])
        )
        if options.noblock:
            if arriving is not None:
                arriving.promise()
            self._show_later(run)
            return run
        self._finish(run, arriving, titles if several else ())
        if several:
            for place, name in enumerate(ready.names):
                namespace[name] = nbray.get([column[place] for column in columns])
        elif options.gather:
            self.workspace.resolve(ready.names)
        if LAST in ready.cell.assigns:
            values = self.workspace.own(nbray.get([column[-1] for column in columns]))
            return values if several else values[0]
        return None


_EVERYWHERE: dict[tuple[str, ...], SubmitTo] = {
    ("nodes",): submit_to_nodes,
    ("workers",): submit_to_workers,
}


def _overview() -> Table:
    rows = [(f"%nbray {command.name}", command.help) for command in COMMANDS.values()]
    notes = [
        "%nbray COMMAND --help tells more of one.",
        "%%remote runs a cell in the cluster, %remote one line: %%remote --help.",
    ]
    return Table(("command", "what it does"), rows, notes=notes)


def _show(value: object) -> None:
    display(value)  # type: ignore[no-untyped-call]


class ResolveOnUse(ast.NodeTransformer):
    """Before a cell that reads remote names runs, their values take their places.

    The cell gets a first statement that waits for them, so that the wait is part of the cell
    and can be interrupted. A cell which reads no remote name stays as it is.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Put the statement in front."""
        if self._workspace.take_interrupt():
            node.body = ast.parse("raise KeyboardInterrupt").body
            return node
        namespace = self._workspace.namespace
        reads = sorted(analyse(node).reads & namespace.keys())
        if remote_names(reads, namespace):
            call = f"__import__('sys').modules[{__name__!r}].resolve({reads!r})"
            node.body.insert(0, ast.parse(call).body[0])
        return node


_workspace: Workspace | None = None


def set_workspace(workspace: Workspace | None) -> None:
    """The workspace that `resolve` works on."""
    global _workspace
    _workspace = workspace


def resolve(names: list[str]) -> None:
    """What the statement in front of a cell calls."""
    assert _workspace is not None, "called outside of IPython"
    _workspace.resolve(names)
