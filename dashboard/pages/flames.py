"""Flames: where the code of many processes is, all the time, as one flame graph."""

from __future__ import annotations

import time

from nbray.debugging.marks import IDLE

from ..parts.continuous import KEPT_S, Choice, Seen
from ..parts.flame import flame
from ..parts.html import Markup, address, join, muted, ref, tag
from ..parts.page import Look, NotFoundError, Page, Section, find
from ..parts.words import count, duration

_KINDS = {"": "tasks and actors", "task": "tasks", "actor": "actors"}
_SPANS = {"": 60.0, "10s": 10.0, "5m": KEPT_S}
_MOST_NODES = 12


async def show(look: Look) -> list[Section]:
    """The flame graph of the chosen processes."""
    kind, span = look.get("kind"), look.get("last")
    if kind not in _KINDS or span not in _SPANS:
        raise NotFoundError(f"There are no such flames: kind {kind!r}, last {span!r}.")
    process = look.get("id")
    title = join(("Flames, all the time ", muted(f"of {_KINDS[kind]}")))
    if process:
        workers, _missing = await look.cluster.workers()
        worker = find(workers, process, "process", lambda w: w.worker_id, lambda w: (str(w.pid),))
        process = worker.worker_id
        title = join(("Flames of ", ref("worker", process, f"pid {worker.pid}"), ", all the time"))
    choice: Choice = (kind, look.get("node"), process)
    chips = await _chips(look)
    seen = look.continuous.look(choice)
    if seen is None:
        ask = "They are looked at while they run, until nobody looks here."
        begin = look.button("flames", "Look at them", ask, kind=kind, node=choice[1], id=process)
        text = "One flame graph of all of them, where their code is, anew every two seconds."
        return [Section("begin", title, join((chips, tag("p", text, class_="note"))), begin)]
    counts = seen.counts(_SPANS[span], time.monotonic())
    idle = counts.pop(IDLE, 0)
    shown = flame(counts, lambda ms: duration(ms / 1000)) if counts else _nothing(seen)
    return [Section("flames", title, join((chips, shown, _notes(seen, idle))))]


def _nothing(seen: Seen) -> Markup:
    if not seen.slices:
        return tag("p", "The first look takes two seconds.", class_="dim")
    return tag("p", "No code of tasks or actors was seen.", class_="dim")


def _notes(seen: Seen, idle: int) -> Markup:
    notes = [f"At work: {count(seen.processes, 'process', 'processes')}."]
    if seen.asked < seen.processes:
        notes.append(f"{seen.asked} are asked at a time, in turns.")
    if idle:
        notes.append(f"They waited for work for {duration(idle / 1000)} beside what is shown.")
    notes.append("Twenty looks a second, by the processes themselves, until nobody looks here.")
    silent = count(seen.silent, "process", "processes")
    bad = f"{silent} told nothing: {seen.why}" if seen.why else ""
    return join((tag("p", bad, class_="bad"), tag("p", " ".join(notes), class_="note")))


async def _chips(look: Look) -> Markup:
    said = {key: look.get(key) for key in ("kind", "last", "node", "id")}

    def chip(text: str, key: str, value: str) -> Markup:
        kind = "chip on" if said[key] == value else "chip"
        return tag("a", text, href=address("flames", {**said, key: value}), class_=kind)

    rows = [[chip(f"last {value or '1m'}", "last", value) for value in ("10s", "", "5m")]]
    if not said["id"]:
        rows.append([chip(text, "kind", value) for value, text in _KINDS.items()])
        nodes = [node for node in await look.cluster.nodes() if node.state == "ALIVE"]
        if 1 < len(nodes) <= _MOST_NODES:
            of_nodes = [chip(f"node {n.node_id[:8]}", "node", n.node_id[:8]) for n in nodes]
            rows.append([chip("all nodes", "node", ""), *of_nodes])
    filters = [tag("div", *row, class_="chips") for row in rows]
    return tag("div", *filters, class_="filters")


PAGES = (Page("flames", "Flames", show, "profile", period_s=2.0),)
