"""The graph of tasks, of one or of a job: who submitted whom, or whose results go where."""

from __future__ import annotations

from nbray.state import queries as q
from nbray.state.rows import TaskList

from ..parts import dataflow
from ..parts.dataflow import lay_out, near
from ..parts.family import above, attempts_of
from ..parts.html import Markup, code, join, link, muted, ref, tag
from ..parts.page import Look, NotFoundError, Page, Section
from ..parts.tree import Box, Drawn, grow, newest, svg
from ..parts.words import count

_JOB_BYTES = 4
_RESULTS = "results"


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
    attempts, children, takers = await attempts_of(look, said)
    task = attempts[0]
    if look.get("by") == _RESULTS:
        found = await _of_the_job(look, bytes.fromhex(task.job_id))
        flow = lay_out(near(newest([*attempts, *takers, *found.rows]), task.task_id), task.task_id)
        title = join(("Results around ", ref("task", task.task_id, task.name)))
        return [_section(look, title, dataflow.svg(flow), found)]
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
    whole = tag("p", muted(note + " "), link("the whole job", "graph", job=task.job_id))
    drawn = Drawn(root, drawn.boxes + len(parents), drawn.left_out)
    return [Section("graph", title, join((_choice(look), whole, svg(drawn), _key())))]


async def _of_job(look: Look, said: str) -> list[Section]:
    try:
        job = bytes.fromhex(said)
    except ValueError:
        job = b""
    if len(job) != _JOB_BYTES:
        raise NotFoundError(f"{said!r} is not the id of a driver's job.")
    found = await _of_the_job(look, job)
    rows = newest(found.rows)
    if look.get("by") == _RESULTS:
        title = join(("Results in job ", ref("job", said, said)))
        return [_section(look, title, dataflow.svg(lay_out(rows)), found)]
    known = {row.task_id for row in rows}
    tops = [row for row in rows if row.parent_task_id not in known]
    root = Box(f"job {said}", [], f"job?id={said}", chosen=True)
    drawn = grow(root, rows, tops)
    title = join(("Graph of job ", ref("job", said, said)))
    body = svg(drawn) if rows else tag("p", "No task of it is remembered.", class_="dim")
    return [_section(look, title, body, found)]


async def _of_the_job(look: Look, job: bytes) -> TaskList:
    return await look.cluster.ask(q.tasks(await look.cluster.task_limit(), job_id=job), 2.0)


def _section(look: Look, title: Markup, body: Markup, found: TaskList) -> Section:
    """A picture below the choice of what it draws, above what it leaves out."""
    notes = [
        f"Of {count(len(found.rows), 'task')} that are remembered; of many short ones, a sample."
    ]
    notes += [f"Missing: {text}." for text in found.missing]
    note = tag("p", " ".join(notes), class_="note")
    return Section("graph", title, join((_choice(look), body, _key(), note)))


def _choice(look: Look) -> Markup:
    """The two pictures, that which is shown without a link."""
    said = {key: look.get(key) for key in ("id", "job")}
    parts = [
        tag("b", text) if look.get("by") == by else link(text, "graph", by=by, **said)
        for by, text in (("", "Who submitted whom"), (_RESULTS, "Whose results go where"))
    ]
    return tag("p", join(parts, " | "))


def _key() -> Markup:
    """What the colours say."""
    parts = [
        tag("span", tag("i", class_=kind), kind)
        for kind in ("done", "running", "waiting", "failed")
    ]
    return tag("div", *parts, class_="legend key")


PAGES = (Page("graph", "Graph", show, "tasks", period_s=2.0),)
