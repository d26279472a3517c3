"""Jobs: what was submitted, and drivers; one job with its tasks and log; submit, follow, stop."""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import quote

from nbray.runtime_env.packaging import MAX_BYTES
from nbray.runtime_env.spec import ARCHIVES
from nbray.state.client import RpcError
from nbray.state.rows import JobState

from ..parts import logs
from ..parts.html import Markup, code, facts, join, link, muted, ref, tag
from ..parts.page import Look, Page, Section, find
from ..parts.table import Column, Table
from ..parts.words import ago, clock, duration, first_line

_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def _id(job: JobState) -> str:
    return job.submission_id or job.job_id or ""


def _took(job: JobState) -> float | None:
    if not job.start_time:
        return None
    return ((job.end_time or time.time() * 1000) - job.start_time) / 1000


def _status(job: JobState) -> Markup:
    kind = {"FAILED": "bad", "RUNNING": "good"}.get(
        job.status, "dim" if job.status in _ENDED else "warn"
    )
    why = first_line(job.message) if job.status in ("PENDING", "FAILED") else ""
    return join(
        (
            tag("span", job.status.lower(), class_=kind),
            tag("div", why[:300], class_="dim") if why else "",
        )
    )


JOBS = Table[JobState](
    [
        Column("id", "job", _id, lambda j: ref("job", _id(j), _id(j))),
        Column("kind", "kind", lambda j: j.type, lambda j: j.type.lower(), choices=True),
        Column("entrypoint", "program", lambda j: j.entrypoint, lambda j: code(j.entrypoint[:300])),
        Column("status", "state", lambda j: j.status, _status, choices=True),
        Column("pid", "pid", lambda j: j.driver_info.pid if j.driver_info else ""),
        Column("driver", "driver's job", lambda j: j.job_id, lambda j: muted(code(j.job_id or ""))),
        Column("began", "began", lambda j: j.start_time, lambda j: clock(j.start_time)),
        Column("took", "took", _took, lambda j: duration(_took(j)), number=True),
        Column("node", "node", lambda j: j.driver_node_id, lambda j: ref("node", j.driver_node_id)),
    ],
    "job",
    "the running first, then the newest",
)


async def show(look: Look) -> list[Section]:
    """All jobs."""
    jobs = sorted(await look.jobs(), key=lambda j: (j.status in _ENDED, -(j.start_time or 0)))
    running = sum(job.status not in _ENDED for job in jobs)
    title = join(("Jobs ", muted(f"{running:,} live, {len(jobs) - running:,} have ended")))
    return [_submit(look), look.table("jobs", title, JOBS, jobs)]


def _submit(look: Look) -> Section:
    if not look.can_act:
        body = muted("Jobs can be submitted where the dashboard itself is open (nbray dashboard).")
        return Section("submit", "Submit a job", body)
    button = tag(
        "button",
        "Submit",
        type="button",
        class_="act",
        data_url="api/jobs/",
        data_ask="It runs on this cluster with what it may do.",
        data_fields=json.dumps(["entrypoint"]),
    )
    field = tag(
        "input",
        type="text",
        name="entrypoint",
        placeholder="python program.py",
        aria_label="What is to run",
        style="flex:1",
    )
    files = tag(
        "label",
        "with files: ",
        tag("input", type="file", data_most=MAX_BYTES, data_endings=json.dumps(ARCHIVES)),
        title="An archive (.zip, .tar.gz, ...) whose files lie in the folder where it runs; "
        f"{MAX_BYTES >> 20} MiB at most.",
    )
    form = tag("form", field, files, button, class_="fixed")
    return Section("submit", "Submit a job", fixed=form)


async def show_one(look: Look) -> list[Section]:
    """One job."""
    jobs = await look.jobs()
    job = find(jobs, look.get("id"), "job", _id, lambda j: (j.job_id, j.submission_id))
    tasks, actors = await asyncio.gather(look.cluster.tasks(), look.cluster.actors())
    mine = [row for row in tasks.rows if row.job_id == job.job_id] if job.job_id else []
    states: dict[str, int] = {}
    for row in mine:
        states[row.state] = states.get(row.state, 0) + 1
    living = sum(a.job_id == job.job_id and a.state != "DEAD" for a in actors)
    button = Markup("")
    if job.type == "SUBMISSION" and job.status not in _ENDED:
        button = look.button(
            "",
            "Stop this job",
            "It is asked to end, and ended when it does not.",
            url=f"api/jobs/{quote(_id(job), safe='')}/stop",
        )
    counts = ", ".join(f"{n:,} {name.lower().replace('_', ' ')}" for name, n in states.items())
    title = join(("Job ", code(_id(job))))
    return [
        Section(
            "job",
            title,
            facts(
                [
                    ("state", _status(job)),
                    ("program", code(job.entrypoint)),
                    ("kind", job.type.lower()),
                    ("driver's job", code(job.job_id) if job.job_id else ""),
                    ("message", tag("pre", job.message) if job.message else ""),
                    (
                        "began",
                        f"{clock(job.start_time)}, {ago(job.start_time, time.time() * 1000)} ago"
                        if job.start_time
                        else "",
                    ),
                    ("ended", clock(job.end_time)),
                    ("took", duration(_took(job))),
                    ("exit code", "" if job.driver_exit_code is None else job.driver_exit_code),
                    ("pid", job.driver_info.pid if job.driver_info else ""),
                    ("node", ref("node", job.driver_node_id)),
                    ("namespace", job.namespace),
                    ("metadata", code(json.dumps(job.metadata)) if job.metadata else ""),
                    (
                        "runtime environment",
                        code(json.dumps(job.runtime_env)) if job.runtime_env else "",
                    ),
                ]
            ),
            button,
        ),
        Section(
            "work",
            "Its work",
            tag(
                "p",
                link("Tasks", "tasks", job=job.job_id),
                f" {counts or 'none is remembered'}; ",
                link("actors", "actors", job=job.job_id),
                f" {living:,} live; ",
                link("graph", "graph", job=job.job_id),
            )
            if job.job_id
            else tag("p", "It has no driver in the cluster.", class_="dim"),
        ),
        await _log(look, job),
    ]


async def _log(look: Look, job: JobState) -> Section:
    name = f"job-driver-{quote(job.submission_id or '', safe='')}.log"
    if job.submission_id is None:
        text = "A driver that was not submitted writes where it was started."
        return Section("log", "Log", tag("p", text, class_="dim"))
    if not job.driver_node_id:
        return Section("log", "Log", tag("p", "It has not begun on a node.", class_="dim"))
    title = join(("Log ", link(name, "logs", node=job.driver_node_id, name=name)))
    try:
        text = await logs.read(look.cluster, job.driver_node_id, name) or ""
    except RpcError as error:
        return Section("log", title, tag("p", f"The node does not answer: {error}", class_="bad"))
    return Section("log", title, logs.shown(logs.chosen(text)))


PAGES = (Page("jobs", "Jobs", show), Page("job", "Job", show_one, "jobs", needs_id=True))
