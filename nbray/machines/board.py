"""What is shown while machines are at work: a line for each, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nbray.common.text import one_line
from nbray.machines.hosts import HostError

_PER_S = 5


@dataclass
class _Row:
    role: str
    stage: str = "waits"
    line: str = ""
    state: str = ""
    began: float = field(default_factory=time.monotonic)
    took: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one machine.

    Attributes:
        name: of the machine.
        role: head or worker.
        state: what it is now, in a word or two.
        detail: which node it is, or why it failed.
        took_s: seconds.
        error: what failed on it.
    """

    name: str
    role: str
    state: str
    detail: str = ""
    took_s: float = 0.0
    error: HostError | None = None


class Board:
    """The machines at work. On a terminal, or in a notebook, the lines are live."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: dict[str, _Row] = {}
        self._live: Live | None = None

    def __enter__(self) -> Board:
        if self._console.is_terminal or self._console.is_jupyter:
            self._live = Live(self, console=self._console, refresh_per_second=_PER_S,
                              transient=True)  # fmt: skip
            self._live.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def stage(self, name: str, role: str, stage: str) -> None:
        """A machine begins something."""
        row = self._rows.setdefault(name, _Row(role))
        row.stage, row.line = stage, ""
        self._tell(name, stage)

    def line(self, name: str, line: str) -> None:
        """A machine wrote a line."""
        if name in self._rows:
            self._rows[name].line = line

    def done(self, name: str, state: str) -> float:
        """A machine is ready, or has failed; the seconds that it took."""
        row = self._rows.setdefault(name, _Row(""))
        row.state, row.line = state, ""
        row.took = time.monotonic() - row.began
        self._tell(name, state)
        return row.took

    def _tell(self, name: str, what: str) -> None:
        if self._live is None:
            self._console.print(f"{escape(name)}: {escape(one_line(what))}", soft_wrap=True)

    def __rich__(self) -> Table:
        """The lines."""
        table = Table.grid(padding=(0, 2), expand=False)
        for name, row in self._rows.items():
            took = time.monotonic() - row.began if row.took is None else row.took
            said = row.state or row.stage
            table.add_row(
                name, row.role, f"{took:.1f} s",
                Text(said, "red" if row.state == "failed" else "green" if row.state else ""),
                Text(one_line(row.line), "dim", no_wrap=True, overflow="ellipsis"),
            )  # fmt: skip
        return table


def show_outcomes(
    console: Console, title: str, outcomes: Sequence[Outcome], logs: Mapping[str, str]
) -> None:
    """Tell what became of all machines: what failed in full, then a table.

    Args:
        console: where to.
        title: of the table.
        outcomes: one for each machine.
        logs: where all that a machine wrote is kept, by name.
    """
    for one in outcomes:
        if one.error is not None:
            _show_error(console, one, logs.get(one.name, ""))
    table = Table(title=escape(title), title_justify="left")
    for column in ("host", "role", "state", "", "took"):
        table.add_column(column)
    for one in outcomes:
        colour = "red" if one.error is not None else "green"
        table.add_row(
            one.name, one.role, f"[{colour}]{escape(one.state)}[/]",
            Text(one_line(one.detail)), f"{one.took_s:.1f} s" if one.took_s else "",
        )  # fmt: skip
    console.print(table)


def _show_error(console: Console, outcome: Outcome, log: str) -> None:
    error = outcome.error
    assert error is not None
    console.print(f"[red]{escape(outcome.name)}[/]: {escape(one_line(str(error)))}", soft_wrap=True)
    if error.command:
        console.print(f"  {escape(one_line(error.command))}", soft_wrap=True, style="bold")
    for line in error.lines:
        console.print(f"    {escape(one_line(line))}", soft_wrap=True)
    if log and error.lines:
        console.print(f"  All that it wrote: {escape(log)}", soft_wrap=True)
