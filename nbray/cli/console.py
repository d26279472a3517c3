"""Tables and colours on a terminal: apart from its lines, since what draws them imports slowly."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from nbray.common.text import one_line, printable


class SafeConsole(Console):
    """A console that escapes what cannot be seen, in all text that it is given."""

    def render_str(self, text: str, **how: Any) -> Text:
        """Text with or without markup; see `rich.console.Console.render_str`."""
        return super().render_str(printable(text), **how)


def cell(value: object) -> Text:
    """A cell of a table: one line, without markup."""
    return Text("" if value is None else one_line(str(value)))
