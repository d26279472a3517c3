"""What a detached cell has shown, as a document: decided here, without clocks, threads or a store.

A cell's output is a list of entries: pieces of text, and displays. Text grows at the end, a display
may be updated in its place, and all may be cleared. Each entry says with which change of the
record it changed last, so that a reader who knows the number of the last change that it has shown
is told exactly what is new, and nothing twice.

A record is bounded: text is bounded already by what a cell shows of its tasks; displays are here,
in number and bytes. What is left out is counted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

_PIECE = 16_000


@dataclass(frozen=True)
class Limits:
    """What is kept of one cell.

    Attributes:
        displays: so many of them.
        display_bytes: so many bytes of them, as JSON.
        value_bytes: results of up to so many bytes together are kept in the GCS, too.
        store_bytes: no cell is taken while results of others take so many in the store.
    """

    displays: int = 500
    display_bytes: int = 20_000_000
    value_bytes: int = 1_000_000
    store_bytes: int = 10_000_000_000


@dataclass
class _Entry:
    number: int
    kind: str
    content: dict[str, Any]
    changed: int
    size: int = 0


@dataclass
class Changes:
    """What is to be stored after changes.

    Attributes:
        written: the entries that are new or have changed, as JSON, by number.
        gone: the numbers of those that are not there any more.
    """

    written: dict[int, bytes] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)


class Record:
    """The output of one cell.

    Attributes:
        change: the number of the last change.
        clears: how often all was cleared.
        left_out: displays, and updates of displays, that are not kept.
        size: bytes of what is kept.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[int, _Entry] = {}
        self._displays: dict[str, int] = {}
        self._count = 0
        self._clear_next = False
        self._pending = Changes()
        self.change = self.clears = self.left_out = self.size = 0

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """One of Jupyter's messages: ``stream``, ``display_data``, ..., ``clear_output``."""
        if kind == "clear_output":
            self._clear_next = True
            if not content.get("wait"):
                self._clear()
            return
        if kind == "update_display_data":
            self._update(content)
            return
        if self._clear_next:
            self._clear()
        if kind == "stream":
            self._write(content["name"], content["text"])
        else:
            self._show(content)

    def index(self) -> list[tuple[int, int]]:
        """Number and last change of each entry, in order."""
        return [(entry.number, entry.changed) for entry in self._entries.values()]

    def changes(self) -> Changes:
        """What has changed since this was asked last."""
        pending, self._pending = self._pending, Changes()
        pending.written = {
            number: json.dumps([entry.kind, entry.content]).encode()
            for number in pending.written
            if (entry := self._entries.get(number)) is not None
        }
        return pending

    def _write(self, stream: str, text: str) -> None:
        last = next(reversed(self._entries.values()), None)
        if (
            last is not None and last.kind == "stream" and last.content["name"] == stream
            and len(last.content["text"]) < _PIECE
        ):  # fmt: skip
            last.content["text"] += text
            last.size += len(text)
            self.size += len(text)
            self._touch(last)
        else:
            self._add("stream", {"name": stream, "text": text}, len(text))

    def _show(self, content: dict[str, Any]) -> None:
        size = len(json.dumps(content))
        if not self._fits(size) or len(self._entries) >= self._limits.displays:
            self._leave_out()
            return
        name = _display_id(content)
        entry = self._add("display_data", content, size)
        if name:
            self._displays[name] = entry.number

    def _update(self, content: dict[str, Any]) -> None:
        entry = self._entries.get(self._displays.get(_display_id(content), -1))
        if entry is None:  # what it updates is not kept, or was cleared
            return
        size = len(json.dumps(content))
        if not self._fits(size - entry.size):
            self._leave_out()
            return
        self.size += size - entry.size
        entry.content, entry.size = content, size
        self._touch(entry)

    def _fits(self, more: int) -> bool:
        return more <= 0 or self.size + more <= self._limits.display_bytes

    def _leave_out(self) -> None:
        self.left_out += 1
        self.change += 1

    def _add(self, kind: str, content: dict[str, Any], size: int) -> _Entry:
        self._count += 1
        entry = self._entries[self._count] = _Entry(self._count, kind, content, 0, size)
        self.size += size
        self._touch(entry)
        return entry

    def _touch(self, entry: _Entry) -> None:
        self.change += 1
        entry.changed = self.change
        self._pending.written[entry.number] = b""

    def _clear(self) -> None:
        self._clear_next = False
        self._pending.gone += self._entries
        self._entries.clear()
        self._displays.clear()
        self.size = 0
        self.change += 1
        self.clears += 1


def _display_id(content: dict[str, Any]) -> str:
    return str(content.get("transient", {}).get("display_id") or "")
