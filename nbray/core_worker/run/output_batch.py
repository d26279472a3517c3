"""What a worker sends of its output: decided here, without files, sockets or clocks.

Text is collected by task and stream into a `Batch`, which is taken as messages from time to
time. A batch keeps the first lines up to its bounds and counts the others. An unfinished line is
held back until it is flushed; of a line that is rewritten by carriage returns (a progress
bar) only the last state is kept. A cursor-up sequence, as nested progress bars write it, ends
a line.

Of what is beyond the bounds nothing is copied or split: it is searched for the ends of lines.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field

from nbray.common.text import left_out
from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay, OutputLines

_UP = "\x1b[A"
_LONGEST = 16 * 1024
"""What an unfinished line may have where all of them together have more than a batch may."""
_MAX_DISPLAYS = 100


@dataclass
class _Section:
    """Lines of one task and stream that stand together."""

    source: OutputSource
    stream: str
    parts: list[str] = field(default_factory=list)
    dropped: int = 0


class _Line:
    """A line whose end has not been printed: its beginning, and how much is left out."""

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.size = 0
        self.cut = 0

    def add(self, text: str, room: int) -> None:
        """Go on with ``text``, of which no more than ``room`` characters are kept."""
        kept = 0 if self.cut else min(len(text), max(0, room))
        self.text.write(text if kept == len(text) else text[:kept])
        self.size += kept
        self.cut += len(text) - kept


class Batch:
    """The output since the last `take`. Not for several threads at once."""

    def __init__(self, max_lines: int, max_bytes: int) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._items: list[_Section | OutputDisplay] = []
        self._open: dict[tuple[bytes, str], _Line] = {}
        self._held = 0
        self._flushed: dict[tuple[bytes, str], OutputSource] = {}
        self._lines = self._bytes = self._displays = 0
        self._full = False

    def __bool__(self) -> bool:
        return bool(self._items or self._flushed)

    def write(self, source: OutputSource, stream: str, text: str) -> None:
        """Take text as it was printed."""
        key = (source.task_id, stream)
        if _UP in text:
            text = text.replace(_UP, "\n")
        end = text.rfind("\n")
        if end >= 0:
            section, start = self._section(source, stream), 0
            if key in self._open:
                start = text.index("\n") + 1
                self._hold(key, text[: start - 1].removesuffix("\r"))
                line, cut = self._release(key)
                self._add(section, _collapsed(line.removesuffix("\r")), cut)
            if start <= end:
                self._add_lines(section, text, start, end)
            text = text[end + 1 :]
        if text:
            self._hold(key, text)

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

    def _hold(self, key: tuple[bytes, str], text: str) -> None:
        """An unfinished line goes on with ``text``."""
        if "\r" in text:
            text = _collapsed(self._release(key)[0] + text)
        line = self._open.setdefault(key, _Line())
        before = line.size
        line.add(text, max(_LONGEST - before, self._max_bytes - self._held))
        self._held += line.size - before

    def _release(self, key: tuple[bytes, str]) -> tuple[str, int]:
        """What was held of an unfinished line, and how many characters were not."""
        line = self._open.pop(key, None)
        if line is None:
            return "", 0
        self._held -= line.size
        return line.text.getvalue(), line.cut

    def _move_flushed(self) -> None:
        for key, source in self._flushed.items():
            text, cut = self._release(key)
            if text:
                # Unfinished lines are never dropped: they are one for each task and stream.
                text += left_out(cut) if cut else ""
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

    def _add_lines(self, section: _Section, text: str, start: int, end: int) -> None:
        """Take the lines from ``start`` to the line feed at ``end``."""
        if end - start <= self._max_bytes:
            lines = text[start:end]
            if "\r" not in lines and self._fits(lines):
                section.parts.append(lines + "\n")
                return
        while start <= end:
            if self._full:
                section.dropped += text.count("\n", start, end + 1)
                return
            stop = text.index("\n", start)
            self._add(section, _collapsed(text[start:stop].removesuffix("\r")))
            start = stop + 1

    def _fits(self, text: str) -> bool:
        lines, size = self._lines + text.count("\n") + 1, self._bytes + len(text)
        if self._full or lines > self._max_lines or size > self._max_bytes:
            return False
        self._lines, self._bytes = lines, size
        return True

    def _add(self, section: _Section, line: str, cut: int = 0) -> None:
        """Take a whole line, of which ``cut`` characters are left out, or its beginning."""
        left = self._max_bytes - self._bytes
        if (cut or len(line) > left) and left > 200 and self._lines < self._max_lines:
            beginning = line[: left - 100]
            line = beginning + left_out(cut + len(line) - len(beginning))
        if self._fits(line):
            section.parts.append(line + "\n")
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
