"""What a worker sends of its output: decided here, without files, sockets or clocks.

Text is collected by task and stream into a `Batch`, which is taken as messages from time to
time. A batch keeps the first lines up to its bounds and counts the others. An unfinished line is
held back until it is flushed; of a line that is rewritten by carriage returns (a progress
bar) only the last state is kept. A cursor-up sequence, as nested progress bars write it, ends
a line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay, OutputLines

_UP = "\x1b[A"
_LONGEST = 16 * 1024
_MAX_DISPLAYS = 100


@dataclass
class _Section:
    """Lines of one task and stream that stand together."""

    source: OutputSource
    stream: str
    parts: list[str] = field(default_factory=list)
    dropped: int = 0


class Batch:
    """The output since the last `take`. Not for several threads at once."""

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._items: list[_Section | OutputDisplay] = []
        self._open: dict[tuple[bytes, str], str] = {}
        self._flushed: dict[tuple[bytes, str], OutputSource] = {}
        self._lines = self._bytes = self._displays = 0
        self._full = False

    def __bool__(self) -> bool:
        return bool(self._items or self._flushed)

    def write(self, source: OutputSource, stream: str, text: str) -> None:
        """Take text as it was printed."""
        key = (source.task_id, stream)
        text = self._open.pop(key, "") + text
        if _UP in text:
            text = text.replace(_UP, "\n")
        if "\n" in text:
            lines, _, text = text.rpartition("\n")
            section = self._section(source, stream)
            if "\r" not in lines and self._fits(lines):
                section.parts.append(lines + "\n")
            else:
                for line in lines.split("\n"):
                    self._add(section, _collapsed(line.removesuffix("\r")) + "\n")
        if "\r" in text:
            text = _collapsed(text)
        if len(text) > _LONGEST:
            self._add(self._section(source, stream), text[:_LONGEST])
            text = text[_LONGEST:][-_LONGEST:]
        if text:
            self._open[key] = text

    def flush(self, source: OutputSource, stream: str) -> None:
        """The unfinished line of a task and stream is to be sent, too."""
        key = (source.task_id, stream)
        if key in self._open:
            self._flushed[key] = source

    def end(self, source: OutputSource) -> None:
        """The task has ended: its unfinished lines are to be sent."""
        for stream in ("stdout", "stderr"):
            self.flush(source, stream)

    def display(self, message: OutputDisplay) -> None:
        """Take a rich display; it comes after what was printed before."""
        self._move_flushed()
        self._displays += 1
        if self._displays <= _MAX_DISPLAYS:
            self._items.append(message)
        else:
            self._section(message.source, "stdout").dropped += 1

    def drop(self, source: OutputSource, stream: str, lines: int) -> None:
        """Count lines that only the log has."""
        self._section(source, stream).dropped += lines

    def take(self) -> list[OutputLines | OutputDisplay]:
        """Everything to send now, in order; the bounds begin anew."""
        self._move_flushed()
        items, self._items = self._items, []
        self._lines = self._bytes = self._displays = 0
        self._full = False
        return [
            OutputLines(item.source, item.stream, "".join(item.parts), item.dropped)
            if isinstance(item, _Section)
            else item
            for item in items
        ]

    def _move_flushed(self) -> None:
        for key, source in self._flushed.items():
            text = self._open.pop(key, "")
            if text:
                # Unfinished lines are never dropped: they are one for each task and stream.
                self._section(source, key[1]).parts.append(text)
        self._flushed.clear()

    def _section(self, source: OutputSource, stream: str) -> _Section:
        if self._items:
            last = self._items[-1]
            if isinstance(last, _Section) and last.source is source and last.stream == stream:
                return last
        section = _Section(source, stream)
        self._items.append(section)
        return section

    def _fits(self, text: str) -> bool:
        lines, size = self._lines + text.count("\n") + 1, self._bytes + len(text)
        if self._full or lines > self._max_lines or size > self._max_bytes:
            return False
        self._lines, self._bytes = lines, size
        return True

    def _add(self, section: _Section, text: str) -> None:
        left = self._max_bytes - self._bytes
        if len(text) > left and left > 200 and self._lines < self._max_lines:
            text = f"{text[: left - 100]} ... {len(text) - left + 100:,} more characters\n"
        if self._fits(text.removesuffix("\n")):
            section.parts.append(text)
        else:
            section.dropped += 1
            self._full = True  # no later line takes the place of one that is left out


def _collapsed(line: str) -> str:
    """``line`` as its last carriage return leaves it, with one in front if there was any."""
    if "\r" not in line:
        return line
    ended = line.endswith("\r")
    last = line.rstrip("\r").rpartition("\r")[2]
    return "\r" + last + ("\r" if ended and last else "")
