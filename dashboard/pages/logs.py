"""Logs of every node: which there are, and one, searched, by level, followed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from nbray.state import queries as q
from nbray.state.client import RpcError
from nbray.state.rows import NodeState

from ..parts import logs
from ..parts.html import Markup, address, escape, join, link, muted, ref, tag
from ..parts.page import Look, NotFoundError, Page, Section, find
from ..parts.table import Column, Table
from ..parts.words import count, size_text

_MOST_NODES = 50
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
_ALL = "*"


@dataclass(frozen=True)
class LogFile:
    """One log of a node."""

    node_id: str
    name: str
    size: int
    of: str


FILES = Table[LogFile](
    [
        Column(
            "name",
            "log",
            lambda f: f.name,
            lambda f: link(f.name, "logs", node=f.node_id, name=f.name),
        ),
        Column("of", "of", lambda f: f.of),
        Column("size", "size", lambda f: f.size, lambda f: size_text(f.size), number=True),
        Column("node", "node", lambda f: f.node_id, lambda f: ref("node", f.node_id)),
    ],
    "log",
    "those of daemons first",
)


async def show(look: Look) -> list[Section]:
    """One log, or all that there are."""
    nodes = [node for node in await look.cluster.nodes() if node.state == "ALIVE"]
    if look.get("node") and look.get("name"):
        node = find(
            nodes,
            look.get("node"),
            "node that lives",
            lambda n: n.node_id,
            lambda n: (n.hostname, n.node_ip),
        )
        return [await _one(look, node, look.get("name"))]
    return [await _all(look, nodes)]


async def _all(look: Look, nodes: list[NodeState]) -> Section:
    asked = nodes[:_MOST_NODES]
    answers, (workers, _missing) = await asyncio.gather(
        asyncio.gather(
            *(look.cluster.ask(q.logs(node.node_id, _ALL), 3.0) for node in asked),
            return_exceptions=True,
        ),
        look.cluster.workers(),
    )
    what = {worker.worker_id[:12]: worker for worker in workers}
    files: list[LogFile] = []
    missing = []
    for node, sizes in zip(asked, answers, strict=True):
        if isinstance(sizes, RpcError):
            missing.append(f"Node {node.node_id[:8]} did not answer.")
            continue
        if isinstance(sizes, BaseException):
            raise sizes
        for name, size in sizes.items():
            worker = what.get(name.removeprefix("worker-").partition(".")[0])
            of = ""
            if worker is not None:
                of = f"pid {worker.pid}, {worker.activity.lower() if worker.is_alive else 'ended'}"
            files.append(LogFile(node.node_id, name, size, of))
    if len(asked) < len(nodes):
        missing.append(f"Of {count(len(nodes), 'node')}, the first {_MOST_NODES} were asked.")
    files.sort(key=lambda file: (file.name.startswith("worker-"), not file.size))
    total = size_text(sum(file.size for file in files))
    title = join(("Logs ", muted(f"{count(len(files), 'file')}, {total}")))
    if not (look.get("q") or look.get("node")):
        empty = sum(not file.size for file in files)
        files = [file for file in files if file.size]
        if empty:
            missing.append(f"{count(empty, 'empty file')} beside; a search shows them, too.")
    return look.table("logs", title, FILES, files, missing)


async def _one(look: Look, node: NodeState, name: str) -> Section:
    text = await logs.read(look.cluster, node.node_id, name)
    if text is None:
        raise NotFoundError(f"Node {node.node_id[:8]} has no log {name!r}.")
    search, level = look.get("q"), look.get("level")
    lines = logs.chosen(text, search, level)
    title = join((link("Logs", "logs"), " / ", ref("node", node.node_id), " / ", name))
    chips = [
        tag(
            "option",
            f"{word.lower()} and worse",
            value=word,
            selected="" if word == level else None,
        )
        for word in _LEVELS
    ]
    everything = tag("option", "all levels", value="")
    fixed = join(
        (
            tag(
                "input",
                type="search",
                class_="search",
                placeholder="Search this log",
                value=search,
                data_key="q",
                aria_label="Search this log",
            ),
            tag("select", everything, *chips, data_key="level", aria_label="Level"),
            tag(
                "a",
                "Download",
                href=address("log", {"node": node.node_id, "name": name}),
                download="",
                class_="chip",
            ),
            muted("follows while the last line is in view"),
        )
    )
    return Section(
        "log", title, join((_note(lines, text, search or level), logs.shown(lines, search))), fixed
    )


def _note(lines: list[tuple[str, str]], text: str, chosen: str) -> Markup:
    all_lines = text.count("\n")
    parts = []
    if chosen:
        parts.append(f"{len(lines):,} of the last {count(all_lines, 'line')} match.")
    if all_lines >= 5000 or len(text) > 1_000_000:
        parts.append("Only the last 5,000 lines, or 1 MB, of the log are searched.")
    return tag("p", escape(" ".join(parts)), class_="note") if parts else Markup("")


PAGES = (Page("logs", "Logs", show),)
