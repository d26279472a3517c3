"""Parts of logs, as lines that can be read: searched, by level, with what was looked for marked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nbray.state import queries as q

from .cluster import Cluster
from .html import Markup, escape, join, tag
from .words import count

MOST_LINES = 500
_READ_LINES = 5000
_LONGEST = 2000
_BEFORE = 6000
_LONGEST_PART = 1_000_000
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_LEVEL = re.compile(
    r"\b(DEBUG|INFO|WARN(?:ING)?|ERROR|CRITICAL|FATAL|Traceback|\w+(?:Error|Exception):)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def log_name(worker_id: str, suffix: str = "err") -> str:
    """The name of a worker's log."""
    return f"worker-{worker_id[:12]}.{suffix}"


def level_of(line: str) -> str:
    """DEBUG, INFO, WARNING, ERROR, or nothing if the line does not say."""
    found = _LEVEL.search(line[:300])
    if found is None:
        return ""
    word = found[1]
    if word in ("DEBUG", "INFO"):
        return word
    return "WARNING" if word.startswith("WARN") else "ERROR"


async def read(cluster: Cluster, node_id: str, name: str, lines: int = _READ_LINES) -> str | None:
    """The last lines of a log; None if the node has no such log.

    Raises:
        RpcError: the node does not answer.
    """
    part = await cluster.ask(q.log(node_id, name, -1, lines))
    if part.missing:
        return None
    if part.offset >= part.end:
        return part.data.decode("utf-8", "replace")
    # So many lines are longer than a part, which has the first of them: as many as fit one.
    part = await cluster.ask(q.log(node_id, name, part.end - _LONGEST_PART, 0))
    text = part.data.decode("utf-8", "replace")
    return text.partition("\n")[2] or text


async def read_before(cluster: Cluster, node_id: str, name: str, end: int) -> str | None:
    """The lines of a log before a place in it; None if the node has no such log.

    Raises:
        RpcError: the node does not answer.
    """
    first = max(0, end - _BEFORE)
    part = await cluster.ask(q.log(node_id, name, first, 0), 10.0)
    if part.missing:
        return None
    start = part.offset - len(part.data)
    text = part.data[: max(0, end - start)].decode("utf-8", "replace")
    return text.partition("\n")[2] if start and start == first else text


def chosen(text: str, search: str = "", level: str = "") -> list[tuple[str, str]]:
    """Lines with their levels: those with the words, of that level or a worse one.

    A line without a level has that of the one before it.
    """
    words = search.casefold().split()
    least = _LEVELS.index(level) if level in _LEVELS else -1
    found = []
    now = ""
    for line in text.removesuffix("\n").split("\n") if text else ():
        line = _COLOUR.sub("", line.rstrip("\r").rpartition("\r")[2])[:_LONGEST]
        now = level_of(line) or now
        if least >= 0 and (now not in _LEVELS or _LEVELS.index(now) < least):
            continue
        if words and not all(word in line.casefold() for word in words):
            continue
        found.append((now if level_of(line) else "", line))
    return found


def shown(lines: Sequence[tuple[str, str]], search: str = "") -> Markup:
    """The last of them as HTML, and how many stand before."""
    last = lines[-MOST_LINES:]
    note = (
        tag("p", f"The last {len(last):,} of {count(len(lines), 'line')} are shown.", class_="note")
        if len(last) < len(lines) else Markup("")
    )  # fmt: skip
    if not last:
        return tag("p", "No lines.", class_="dim")
    rows = [tag("span", _marked(line, search) or " ", class_=f"line {level}".rstrip())
            for level, line in last]  # fmt: skip
    return join((note, tag("pre", *rows, class_="log keep")))


def _marked(line: str, search: str) -> Markup:
    words = [re.escape(word) for word in search.split()]
    if not words:
        return escape(line)
    parts: list[Any] = []
    end = 0
    for found in re.finditer("|".join(words), line, re.IGNORECASE):
        parts += [line[end : found.start()], tag("mark", found[0])]
        end = found.end()
    return join([*parts, line[end:]])
