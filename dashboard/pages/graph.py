"""The graph of tasks: who submitted whom, of one task or of a job."""

from __future__ import annotations

from nbray.state import queries as q

from ..parts.family import above, attempts_of
from ..parts.html import Markup, code, join, link, muted, ref, tag
from ..parts.page import Look, NotFoundError, Page, Section
from ..parts.tree import Box, Drawn, grow, newest, svg
from ..parts.words import count

_JOB_BYTES = 4


async def show(look: Look) -> list[Section]:
    """Of the task that the query says, or of the job."""
    if look.get("id"):
        return await _of_task(look, look.get("id"))
    if look.get("job"):
        return await _of_job(look, look.get("job"))
    jobs = [job for job in await look.jobs() if job.job_id]
    items = [
        tag("li", link(job.job_id, "graph", job=job.job_id), " ", code(job.entrypoint[:200]))
        for job in jobs[:50]
    ]
    body = tag("ul", *items, class_="plain") if items else tag("p", "No job.", class_="dim")
    return [Section("choose", "Graph of tasks: of which job?", body)]


async def _of_task(look: Look, said: str) -> list[Section]:
    attempts, children = await attempts_of(look, said)
    task = attempts[0]
    parents = await above(look, task)
    lately = (await look.cluster.tasks()).rows
    known = newest([*children, *lately])
    mine = Box(task.name, [task], f"task?id={task.task_id}", chosen=True)
    drawn = grow(mine, known, [row for row in known if row.parent_task_id == task.task_id])
    root = mine
    for parent in reversed(parents):
        root = Box(parent.name, [parent], f"graph?id={parent.task_id}", [root])
    title = join(("Graph of ", ref("task", task.task_id, task.name), " ", code(task.task_id)))
    note = "" if parents else "It was submitted by its job's program, or who did is not remembered."
    links = tag("p", muted(note + " "), link("the whole job", "graph", job=task.job_id))
    drawn = Drawn(root, drawn.boxes + len(parents), drawn.left_out)
    return [Section("graph", title, join((links, svg(drawn), _key())))]


async def _of_job(look: Look, said: str) -> list[Section]:
    try:
        job = bytes.fromhex(said)
    except ValueError:
        job = b""
    if len(job) != _JOB_BYTES:
        raise NotFoundError(f"{said!r} is not the id of a driver's job.")
    limit = await look.cluster.task_limit()
    found = await look.cluster.ask(q.tasks(limit, job_id=job), 2.0)
    rows = newest(found.rows)
    known = {row.task_id for row in rows}
    tops = [row for row in rows if row.parent_task_id not in known]
    root = Box(f"job {said}", [], f"job?id={said}", chosen=True)
    drawn = grow(root, rows, tops)
    notes = [f"{count(len(rows), 'task')} that are remembered; of many short ones, a sample."]
    notes += [f"Missing: {text}." for text in found.missing]
    title = join(("Graph of job ", ref("job", said, said)))
    body = svg(drawn) if rows else tag("p", "No task of it is remembered.", class_="dim")
    return [Section("graph", title, join((body, _key(), tag("p", " ".join(notes), class_="note"))))]


def _key() -> Markup:
    """What the colours say."""
    parts = [
        tag("span", tag("i", class_=kind), kind)
        for kind in ("done", "running", "waiting", "failed")
    ]
    return tag("div", *parts, class_="legend key")


PAGES = (Page("graph", "Graph", show, "tasks", period_s=2.0),)
