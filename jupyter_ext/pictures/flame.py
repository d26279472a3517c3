"""Where time and memory went: flame graphs as static pictures, which need no script and no page.

The boxes stand at parts of the width, so the picture is as wide as its place and its text is not
stretched; a box's whole name is what a browser shows above the mouse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from nbray.debugging.flame import Laid, colour_of, laid_out, own_counts

from . import theme
from .tables import as_bytes
from .task_stream import COLOURS

_LEAST = 0.003
_MOST_BOXES = 1500
_MOST_ROWS = 60
_ROW = 17
_MOST_LINES = 8
_LONGEST = 160


@dataclass(frozen=True)
class Flames:
    """The profile of a cell, as pictures.

    Attributes:
        label: which cell.
        facts: what is to be said of it, in a few words each.
        time: microseconds by stack.
        memory: bytes by stack.
        exact: whether the memory is what was allocated at the highest, not what workers grew by.
        notes: what is missing.
    """

    label: str
    facts: tuple[str, ...]
    time: Mapping[str, int]
    memory: Mapping[str, int]
    exact: bool = False
    notes: tuple[str, ...] = ()

    def _parts(self) -> list[tuple[str, Mapping[str, int], bool]]:
        seconds = sum(self.time.values()) / 1e6
        parts = [(f"Time: {seconds:,.2f} s of its tasks", self.time, False)]
        size = as_bytes(sum(self.memory.values()))
        if self.exact:
            parts.append((f"Memory: {size} allocated at the highest", self.memory, True))
        else:
            parts.append((f"Memory: {size} by which workers have grown", self.memory, True))
        return [part for part in parts if part[1]]

    def __repr__(self) -> str:
        lines = [f"Profile of {self.label}: {', '.join(self.facts)}"]
        for title, counts, is_memory in self._parts():
            lines.append(title)
            lines += [f"  {share:4.0%} {amount:>9}  {name}"
                      for name, amount, share in _lines(counts, is_memory)]  # fmt: skip
        return "\n".join([*lines, *(self.notes or ()), *([] if self._parts() else [_NOTHING])])

    def _repr_html_(self) -> str:
        body = f"<b>Profile of {theme.escape(self.label)}</b> {theme.muted(', '.join(self.facts))}"
        for title, counts, is_memory in self._parts():
            laid = laid_out(counts, _LEAST, _MOST_BOXES)
            body += f'<div style="margin-top:6px">{theme.escape(title)}</div>'
            body += _svg(laid, is_memory)
            if laid.left_out:
                body += theme.muted(f"{laid.left_out:,} small frames are not drawn.")
            rows = [
                (f"{share:.0%}", theme.escape(amount), theme.escape(name))
                for name, amount, share in _lines(counts, is_memory)
            ]
            body += theme.grid(("", "itself", "line"), rows, numbers=(0, 1))
        for note in (*self.notes, *([] if self._parts() else [_NOTHING])):
            body += f"<div>{theme.muted(note)}</div>"
        return theme.card(f'<div style="min-width:640px">{body}</div>', "profile")


_NOTHING = "Nothing was seen: its tasks have not run yet."


def _lines(counts: Mapping[str, int], is_memory: bool) -> list[tuple[str, str, float]]:
    """The lines that have most themselves: name, amount and share."""
    whole = max(1, sum(counts.values()))
    most = sorted(own_counts(counts).items(), key=lambda pair: -pair[1])[:_MOST_LINES]
    return [(_short(name), _amount(count, is_memory), count / whole) for name, count in most]


def _amount(count: int, is_memory: bool) -> str:
    return as_bytes(count) if is_memory else f"{count / 1e6:,.2f} s"


def _short(frame: str) -> str:
    """A frame without the folders of its file."""
    name, bracket, place = frame.partition(" (")
    if not bracket or not place.endswith(")"):
        return frame[:_LONGEST]
    file, _, line = place[:-1].rpartition(":")
    base = file.strip("<>").removeprefix("remote cell ") if file.startswith("<") else None
    base = base or os.path.basename(file)
    if name == f"{file}:{line}":
        return f"{base}:{line}"[:_LONGEST]
    return f"{name} ({base}:{line})"[:_LONGEST]


def _svg(laid: Laid, is_memory: bool) -> str:
    rows = min(laid.rows, _MOST_ROWS)
    parts = []
    for box in laid.boxes:
        if box.depth >= _MOST_ROWS:
            continue
        said = f"{_short(box.name)}: {box.width:.1%}, {_amount(box.count, is_memory)}"
        colour = COLOURS[colour_of(box.name, len(COLOURS))] if box.depth else "#8a919c"
        text = (
            f'<text x="3" y="12.5" font-size="11" fill="#10141a">{theme.escape(_short(box.name))}'
            "</text>"
            if box.width > 0.02
            else ""
        )
        parts.append(
            f'<svg x="{box.left:.4%}" y="{_ROW * box.depth}" width="{box.width:.4%}" '
            f'height="{_ROW - 1}"><title>{theme.escape(said)}</title>'
            f'<rect width="100%" height="100%" rx="1" fill="{colour}"/>{text}</svg>'
        )
    return (
        f'<svg role="img" width="100%" height="{_ROW * rows}" '
        'style="display:block;font-family:var(--jp-code-font-family, monospace)">'
        f"{''.join(parts)}</svg>"
    )
