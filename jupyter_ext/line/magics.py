"""The magics: ``%nbray`` for the cluster, ``%%remote`` and ``%remote`` for code that runs in it."""

from __future__ import annotations

import ast
import sys
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

from nbray.notebook import engine

from ..cache.answers import Result
from ..cache.cells import Attempt
from ..cell.analysis import analyse
from ..cell.arriving import Arriving
from ..cell.remote_value import remote_names
from ..cell.run import Detached, Patience, RemoteRun, told_changes
from ..cell.sending import prepare
from ..cell.target import Order, Submitted
from ..cell.task import InTask
from ..cell.text import NotRemoteError
from ..cell.values import CannotSendError
from ..commands.cluster import ensure
from ..commands.parser import HelpShown
from ..commands.profile import show_kept
from ..commands.table import COMMANDS
from ..engines import refuse
from ..messages import LAST, Summary
from ..pictures.tables import Table
from ..words import did_you_mean, split
from .detaching import detach, through_keeper
from .options import RemoteOptions, parse_cell, parse_line
from .targets import target_of

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
        try:
            attempt = self._look(options, source, one_line)
            if attempt is not None and attempt.answer is not None:
                result = self.workspace.cache.open(attempt)
                if result is not None:
                    return self._bring(result)
            ensure(self.workspace, "%remote" if one_line else "%%remote")
            return self._run(options, source, one_line, attempt)
        except (CannotSendError, NotRemoteError) as error:
            raise UsageError(str(error)) from error
        except SyntaxError as error:
            raise error.with_traceback(None) from None

    @line_magic("%remote")  # type: ignore[arg-type]
    def remote_below(self, _line: str) -> None:
        """What IPython takes ``%%remote`` for where it is not the first line of its cell.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "%%remote has to be the first line of its cell: nothing stands above it, not even a "
            "comment."
        )

    def _look(self, options: RemoteOptions, source: str, one_line: bool) -> Attempt | None:
        """Look a cell up that may have been kept; None: it is not to be."""
        if options.cache is None:
            return None
        workspace = self.workspace
        workspace.check_cluster()
        counts = {
            **{name: value for name, value in options.task.items() if name not in _NO_MATTER},
            "out": options.out, "one line": one_line,
        }  # fmt: skip
        return workspace.cache.look(
            source, workspace.cell_label(), workspace.cell_id(), counts,
            fresh=options.cache == "refresh",
        )  # fmt: skip

    def _bring(self, result: Result) -> Any:
        """Show what was kept of a cell, and give names their values."""
        for kind, content in result.shown:
            _show_again(self.shell, kind, content)
        values = dict(result.values)
        last = values.pop(LAST, None)
        self.workspace.namespace.update(values)
        self._show_end([result.summary])
        return last

    def _run(
        self, options: RemoteOptions, source: str, one_line: bool, attempt: Attempt | None
    ) -> Any:
        workspace = self.workspace
        workspace.check_cluster()
        if options.profile:
            refuse("%%remote --profile")
        label = workspace.cell_label()
        if options.detach is not None:
            detach(workspace, options, source, label)
            return None
        if options.marks:
            workspace.router.mark(options.marks)
        target = target_of(workspace, options, label, one_line)
        ready = prepare(workspace, source, label, target.wanted)
        workspace.tell_what_was_sent(ready.packed)
        setups = workspace.setup.payload()
        if attempt is not None:
            workspace.router.record()
        by_keeper = workspace.settings.detachable == "yes" and attempt is None and not options.marks
        if by_keeper and isinstance(target, InTask):
            sent = through_keeper(workspace, options, ready, target, self._patience(options))
        else:
            sent = target.submit(Order(ready, options.task, self._patience(options), setups))
        run = sent.run
        if run is not None:
            workspace.runs.append(run)
            arriving = None
            if not sent.several:
                workspace.router.leave_unmarked(run.summary_ref.task_id().binary())
                arriving = Arriving(
                    workspace.namespace, sent.ready.names, sent.ready.certain, run,
                    sent.columns[0], sent.changes,
                )  # fmt: skip
            if options.noblock and not options.every:
                self._go_on(run, arriving)
                return run
            try:
                summaries = self._finish(sent, run, arriving)
            finally:
                if options.profile:
                    show_kept(workspace, workspace.router.number_of_cell())
            if attempt is not None:
                recording = workspace.router.recorded()
                workspace.cache.keep(attempt, sent, summaries[0], run.seconds(), recording)
        return self._results(sent, gather=options.gather or one_line)

    def _results(self, sent: Submitted, gather: bool) -> Any:
        """What comes back from one place is a value, from several a list in their order."""
        workspace, names, wanted = self.workspace, sent.ready.names, sent.ready.cell.assigns
        if not sent.several:
            if gather:
                workspace.resolve(names)
            return workspace.own(engine().api.get(sent.columns[0][-1])) if LAST in wanted else None
        lists = [
            workspace.own(engine().api.get([column[place] for column in sent.columns]))
            for place in range(len(wanted))
        ]
        workspace.namespace.update(zip(names, lists, strict=False))
        return lists[-1] if LAST in wanted else None

    def _patience(self, options: RemoteOptions) -> Patience:
        settings = self.workspace.settings
        return Patience(
            options.timeout,
            options.on_interrupt or settings.on_interrupt,
            settings.interrupt_grace,
        )

    def _go_on(self, run: RemoteRun, arriving: Arriving | None) -> None:
        """Give names their promises: the run goes on in the background."""
        if arriving is not None:
            arriving.promise()
        self._show_later(run)

    def _finish(self, sent: Submitted, run: RemoteRun, arriving: Arriving | None) -> list[Summary]:
        """Wait for a run, give its names their values, and show what it displays."""
        try:
            summaries = run.wait()
            if arriving is not None:
                arriving.succeed(summaries[0])
        except BaseException as error:  # whatever the user's cell raised
            sent.take_back()
            if isinstance(error, Detached):
                self._go_on(run, arriving)
            elif arriving is not None:
                arriving.fail()
            raise self.workspace.shown_error(error, run) from None
        self._show_end(summaries, sent.titles, sent.note)
        return summaries

    @staticmethod
    def _show_end(summaries: Sequence[Summary], titles: Sequence[str] = (), note: str = "") -> None:
        for number, summary in enumerate(summaries):
            if titles and summary.displays:
                print(f"{titles[number]}:")
            for bundle in summary.displays:
                display(bundle, raw=True)  # type: ignore[no-untyped-call]
        for text in filter(None, (told_changes(summaries), note)):
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

        run.watch(show)


_NO_MATTER = ("name", "max_retries")
"""Options of a task on which its answer does not depend."""


def _show_again(shell: Any, kind: str, content: dict[str, Any]) -> None:
    """Show what a kept cell has shown, in the cell that runs now."""
    if kind == "stream":
        print(content["text"], end="", file=getattr(sys, content["name"]), flush=True)
    elif kind == "clear_output":
        shell.display_pub.clear_output(content.get("wait", False))
    else:
        shell.display_pub.publish(
            content.get("data", {}), content.get("metadata"),
            transient=content.get("transient"), update=kind == "update_display_data",
        )  # fmt: skip


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
