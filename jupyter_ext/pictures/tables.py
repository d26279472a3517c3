"""What the commands show: tables that read well as text and as HTML, and numbers for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nbray.common.text import one_line, printable

from . import theme

_NUMBER = re.compile(r"([\d,]*(\.\d+)?( (B|kB|MB|GB|s))?|\?)")
_LONG = 60


class Table:
    """Rows under titles, with an optional line above and lines below."""

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        title: str = "",
        notes: Sequence[str] = (),
    ) -> None:
        self.columns = list(columns)
        self.rows = [["" if cell is None else str(cell) for cell in row] for row in rows]
        self.title = title
        self.notes = list(notes)

    def __repr__(self) -> str:
        lines = [printable(self.title)] if self.title else []
        if self.rows:
            table = [self.columns, *([one_line(cell) for cell in row] for row in self.rows)]
            widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
            for row in table:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                lines.append("  ".join(cells).rstrip())
        return "\n".join(lines + [printable(note) for note in self.notes])

    def _repr_html_(self) -> str:
        numbers = {
            place
            for place in range(len(self.columns))
            if all(_NUMBER.fullmatch(row[place]) for row in self.rows)
        }
        rows = [
            [cell if i in numbers else _soft(cell) for i, cell in enumerate(row)]
            for row in self.rows
        ]
        parts = [f"<b>{theme.escape(self.title)}</b>"] if self.title else []
        parts += [theme.grid(self.columns, rows, numbers)] if rows else []
        parts += [f"<div>{theme.escape(note)}</div>" for note in self.notes]
        return str(theme.card("".join(parts), "table"))


def _soft(text: str) -> str:
    """A cell as HTML: a long text wraps, so that the table does not outgrow the page."""
    shown = theme.escape(text)
    if len(text) <= _LONG:
        return str(shown)
    style = "display:inline-block;max-width:44em;white-space:normal;overflow-wrap:anywhere"
    return f'<span style="{style}">{shown}</span>'


def as_bytes(number: float) -> str:
    """``1.5 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def count(number: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def resource_amount(name: str, value: float) -> str:
    """An amount of a resource; memory in bytes."""
    return as_bytes(value) if name.endswith("memory") else f"{value:g}"


def resource_amounts(resources: dict[str, float]) -> list[str]:
    """``CPU 2``, one for each resource that is not a node's own name."""
    return [
        f"{name} {resource_amount(name, value)}"
        for name, value in sorted(resources.items())
        if not name.startswith("node:")
    ]
