"""What one cell shows of its tasks' output: decided here, without clocks, threads or Jupyter.

Text comes in as the workers send it. What goes out is text for the cell's streams, and what the
cell's panel says: progress bars, and how many lines are not shown.

- Identical lines of one function are folded: the first is shown at once; those that follow
  within `FOLD_S` seconds are shown as one line with their number.
- A line that was rewritten by a carriage return is a progress bar. Bars with the same
  description are one: their counts are added up.
- At most `LINE_LIMIT` lines are shown; further ones are counted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from nbray.common.text import LEFT_OUT, left_out

LINE_LIMIT = 200
"""How many lines of its tasks one cell shows."""
CHARACTER_LIMIT = 200_000
FOLD_S = 1.0
_MAX_BARS = 20
_MAX_LINE = 4000
"""How much of a line is shown."""
_COUNT = re.compile(r"(\d+)/(\d+)")
_DESCRIPTION = re.compile(r"[^\d%|]*")


@dataclass(frozen=True)
class Source:
    """Where text comes from. ``plain`` text is shown without saying so."""

    task_id: bytes
    name: str
    pid: int
    log: str
    plain: bool = False

    @property
    def prefix(self) -> str:
        """What stands in front of its lines."""
        if self.plain:
            return ""
        return f"({self.name} pid={self.pid}) " if self.name else f"(pid={self.pid}) "


@dataclass
class _Fold:
    """A line that was shown and has come again since."""

    stream: str
    source: Source
    line: str
    since: float
    count: int = 0
    pids: set[int] = field(default_factory=set)


@dataclass
class _Bar:
    """The bars with one description: the newest text of each, by process and task."""

    texts: dict[tuple[int, bytes], str] = field(default_factory=dict)

    def text(self) -> str:
        """The bar, or the sum of the bars."""
        texts = list(self.texts.values())
        counts = [_COUNT.search(text) for text in texts]
        if len(texts) == 1 or not all(counts):
            return texts[-1]
        done = sum(int(count[1]) for count in counts if count)
        total = sum(int(count[2]) for count in counts if count)
        name = _description(texts[-1])
        return f"{name} {bar(done, total)} {done}/{total} in {len(texts)} tasks"


def bar(done: int, total: int, width: int = 20) -> str:
    """A progress bar of text."""
    share = min(1.0, done / total) if total else 0.0
    eighths = round(share * width * 8)
    full, part = divmod(eighths, 8)
    blocks = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return f"{share:4.0%}|{blocks:<{width}}|"


def _description(text: str) -> str:
    match = _DESCRIPTION.match(text)
    return match[0].strip() if match else ""


@dataclass
class _Open:
    """A line that has not ended: what has been kept of it, and how much was not."""

    source: Source
    text: str = ""
    rewritten: bool = False
    cut: int = 0

    def add(self, text: str) -> None:
        """Go on with ``text``."""
        for number, part in enumerate(text.split("\r")):
            if not number:
                self.text += part
            else:
                self.rewritten = True
                if part:
                    self.text, self.cut = part, 0
        if len(self.text) > 2 * _MAX_LINE:
            self.cut += len(self.text) - _MAX_LINE
            if (by_worker := LEFT_OUT.search(self.text, len(self.text) - 40)) is not None:
                self.cut += int(by_worker[1].replace(",", "")) - len(by_worker[0])
            self.text = self.text[:_MAX_LINE]


class CellOutput:
    """The output of the tasks of one cell."""

    def __init__(self) -> None:
        self.hidden: dict[str, int] = {}
        self.logs: dict[str, None] = {}
        self.changed = False
        self._shown = self._characters = 0
        self._ready: list[tuple[str, str]] = []
        self._open: dict[tuple[int, bytes, str], _Open] = {}
        self._folds: dict[tuple[str, str, str], _Fold] = {}
        self._bars: dict[tuple[str, str], _Bar] = {}
        self._last: tuple[str, Source, str] | None = None
        self._repeats = 0

    @property
    def bars(self) -> list[str]:
        """The progress bars, one for each description, as text."""
        return [bar.text() for bar in self._bars.values() if bar.texts]

    def feed(self, source: Source, stream: str, text: str, dropped: int, now: float) -> None:
        """Take text and the number of lines that a worker left out; ``now`` in seconds."""
        key = (source.pid, source.task_id, stream)
        line = self._open.pop(key, None) or _Open(source)
        if self._is_full and "\r" not in text and not line.rewritten:
            # Nothing of it can be shown: counting is all that a flood may cost.
            self._hide(source, text.count("\n") + dropped)
            return
        *ended, rest = text.split("\n")
        for part in ended:
            line.add(part)
            if line.rewritten:
                self._set_bar(source, line.text)
            else:
                self._line(line, stream, now)
            line = _Open(source)
        line.add(rest)
        if line.rewritten:
            self._set_bar(source, line.text)
        elif line.text and source.plain and not self._is_full:
            self._settle_repeats()
            self._write(stream, line.text)
            line = _Open(source)
        if line.text:
            self._open[key] = line
        if dropped:
            self._hide(source, dropped)

    def take(self, now: float, final: bool = False) -> list[tuple[str, str]]:
        """Text to show now, as pairs of stream and text; with ``final`` nothing is held back."""
        if final:
            for key, unfinished in list(self._open.items()):
                if not unfinished.rewritten:
                    del self._open[key]
                    self._line(unfinished, key[2], now)
        self._settle_repeats()
        for name, fold in list(self._folds.items()):
            if fold.count and (final or now - fold.since >= FOLD_S):
                times = "" if fold.count == 1 else f"  [{fold.count:,} times"
                if times and len(fold.pids) > 1:
                    times += f", {len(fold.pids)} processes"
                text = fold.source.prefix + fold.line + (times + "]" if times else "") + "\n"
                self._show_line(fold.source, fold.stream, text, fold.count)
                fold.since, fold.count, fold.pids = now, 0, set()
            elif not fold.count and now - fold.since >= FOLD_S:
                del self._folds[name]
        ready, self._ready = self._ready, []
        joined: list[tuple[str, str]] = []
        for stream, text in ready:
            if joined and joined[-1][0] == stream:
                joined[-1] = (stream, joined[-1][1] + text)
            else:
                joined.append((stream, text))
        return joined

    @property
    def waits(self) -> bool:
        """Whether a later `take` may show more without further text."""
        return bool(self._ready or self._repeats or any(f.count for f in self._folds.values()))

    @property
    def _is_full(self) -> bool:
        return self._shown >= LINE_LIMIT or self._characters >= CHARACTER_LIMIT

    def _line(self, ended: _Open, stream: str, now: float) -> None:
        source, line = ended.source, ended.text
        more = ended.cut + len(line) - _MAX_LINE
        if more > 0:
            line = line[:_MAX_LINE] + left_out(more)
            self.logs[source.log] = None
        if source.plain:
            if self._last == (stream, source, line):
                self._repeats += 1
                return
            self._settle_repeats()
            self._last = (stream, source, line)
            self._show_line(source, stream, line + "\n", 1)
            return
        fold = self._folds.get((stream, source.name, line))
        if fold is None:
            self._folds[stream, source.name, line] = _Fold(stream, source, line, now)
            self._show_line(source, stream, source.prefix + line + "\n", 1)
        else:
            fold.count += 1
            fold.source = source
            fold.pids.add(source.pid)

    def _settle_repeats(self) -> None:
        """Of the same line again and again, three are shown; then their number."""
        if self._last is not None and self._repeats:
            stream, source, line = self._last
            few = self._repeats <= 2
            text = (line + "\n") * self._repeats if few else f"{line}  [{self._repeats:,} times]\n"
            self._show_line(source, stream, text, self._repeats)
        self._last, self._repeats = None, 0

    def _show_line(self, source: Source, stream: str, text: str, count: int) -> None:
        if self._is_full:
            self._hide(source, count)
            return
        self._shown += 1
        self._write(stream, text)

    def _write(self, stream: str, text: str) -> None:
        self._characters += len(text)
        self._ready.append((stream, text))

    def _hide(self, source: Source, count: int) -> None:
        if count:
            self.hidden[source.name] = self.hidden.get(source.name, 0) + count
            self.logs[source.log] = None
            self.changed = True

    def _set_bar(self, source: Source, text: str) -> None:
        key = (source.name, _description(text))
        if key not in self._bars and len(self._bars) >= _MAX_BARS:
            del self._bars[next(iter(self._bars))]
        shown = self._bars.setdefault(key, _Bar())
        member = (source.pid, source.task_id)
        if text.strip():
            shown.texts[member] = text.strip()
        else:  # it wiped itself out
            shown.texts.pop(member, None)
        self.changed = True
