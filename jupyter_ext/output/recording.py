"""What a cell has shown, remembered to be shown again."""

from __future__ import annotations

import json
from typing import Any

from nbray.notebook import OutputDisplay, OutputLines

Shown = tuple[str, dict[str, Any]]
"""Something that a cell shows: ``stream``, or a kind of display, and its content."""
_MOST = 64 << 20


class Recording:
    """What the tasks of one cell show, as it stands at the end: what was updated stands there once.

    Attributes:
        overflows: whether it was more than is remembered.
    """

    def __init__(self) -> None:
        self.overflows = False
        self._shown: list[Shown] = []
        self._places: dict[str, int] = {}
        self._size = 0

    def add(self, kind: str, content: dict[str, Any]) -> None:
        """The cell shows something."""
        if kind == "clear_output":
            self._shown.clear()
            self._places.clear()
            self._size = 0
            return
        size = len(str(content))
        name = str(content.get("transient", {}).get("display_id", ""))
        if name in self._places and name:
            place = self._places[name]
            self._size += size - len(str(self._shown[place][1]))
            self._shown[place] = ("display_data", content)
        elif kind != "update_display_data":
            self._size += size
            if name:
                self._places[name] = len(self._shown)
            self._shown.append((kind, content))
        if self._size > _MOST:
            self.overflows = True
            self._shown.clear()
            self._places.clear()
            self._size = 0

    def add_message(self, message: OutputLines | OutputDisplay) -> None:
        """What a task prints or displays goes where the cell's output is kept."""
        if isinstance(message, OutputLines):
            self.add("stream", {"name": message.stream, "text": message.text})
        else:
            self.add(message.kind, json.loads(message.content))

    def shown(self) -> list[Shown]:
        """All of it, in order."""
        return list(self._shown)
