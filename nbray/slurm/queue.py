"""Slurm's queue: rows of squeue, and what states and reasons mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum

import msgspec

FORMAT = "%i|%T|%L|%N|%r|%j"
"""The columns of a row. The name, which may be any text, comes last."""

_ROW = re.compile(r"\d+[^|]*\|[A-Z_]+\|", re.ASCII)
_LEFT = re.compile(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", re.ASCII)


class Row(msgspec.Struct, frozen=True):
    """One job as squeue shows it.

    Attributes:
        id: its number, of an array with that of the element.
        state: Slurm's word.
        left_s: seconds until its walltime, of a job that waits all of it; None: without an end.
        hosts: where it runs, as a list of hosts.
        reason: why it is in this state, in Slurm's word.
        name: of the job.
    """

    id: str
    state: str
    left_s: float | None
    hosts: str
    reason: str
    name: str


def rows(text: str) -> Iterator[Row]:
    """The rows of what squeue prints with `FORMAT`; lines that are none are passed over."""
    for line in text.split("\n"):
        if _ROW.match(line) is None:
            continue  # the rest of a name with a line break, or a word of the site's
        parts = line.split("|", 5)
        if len(parts) == 6:
            yield Row(parts[0], parts[1], left(parts[2]), parts[3], parts[4], parts[5])


def left(text: str) -> float | None:
    """Seconds of ``days-hours:minutes:seconds``; None of words such as ``UNLIMITED``."""
    found = _LEFT.fullmatch(text.strip())
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + float(seconds)


class Standing(StrEnum):
    """How far a job is."""

    WAITS = "WAITS"
    STARTS = "STARTS"
    RUNS = "RUNS"
    OVER = "OVER"


_STANDINGS = {
    Standing.WAITS: "PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT",
    Standing.STARTS: "CONFIGURING POWER_UP_NODE",
    Standing.RUNS: "RUNNING SUSPENDED STOPPED SIGNALING RESIZING COMPLETING STAGE_OUT",
    Standing.OVER: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY "
    "PREEMPTED REVOKED TIMEOUT",
}
_BY_STATE = {state: standing for standing, states in _STANDINGS.items() for state in states.split()}


def standing(state: str) -> Standing:
    """How far a job is, by Slurm's word; a word of a newer Slurm is taken for a beginning."""
    return _BY_STATE.get(state, Standing.STARTS)


_REASONS = {
    "None": "it has just been submitted",
    "Resources": "it waits until nodes are free",
    "Priority": "other jobs come first",
    "JobHeldUser": "its user holds it; `scontrol release {id}` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "BeginTime": "it is to begin later",
    "Dependency": "it waits for another job",
    "Licenses": "it waits for a licence",
    "NodeDown": "a node that it needs is down",
    "ReqNodeNotAvail": "a node that it needs is down, drained or reserved",
    "Reservation": "it waits for its reservation",
    "PartitionDown": "the partition is down",
    "PartitionInactive": "the partition starts no jobs",
    "PartitionNodeLimit": "the partition has no such node, or not so many; it will not start",
    "PartitionTimeLimit": "its walltime is longer than the partition allows; it will not start",
    "BadConstraints": "no node is as it asks; it will not start",
    "AccountNotAllowed": "the account may not use the partition; it will not start",
    "InvalidAccount": "there is no such account; it will not start",
    "InvalidQOS": "there is no such QOS; it will not start",
    "JobArrayTaskLimit": "so many of its array may run at once, and do",
    "launch failed requeued held": "it could not be launched and is held; `scontrol release {id}` "
    "tries again",
}
_BEGINNINGS = (
    ("ReqNodeNotAvail", _REASONS["ReqNodeNotAvail"]),
    ("QOS", "a limit of the QOS is reached"),
    ("Assoc", "a limit of the account or the user is reached"),
    ("MaxJobs", "a limit of jobs is reached"),
)


def explain(row: Row) -> str:
    """Why a job is where it is, in one sentence."""
    reason = " ".join(row.reason.split())
    if standing(row.state) is Standing.WAITS:
        meant = _REASONS.get(reason) or next(
            (text for start, text in _BEGINNINGS if reason.startswith(start)), ""
        )
        said = f"Slurm job {row.id} is {row.state}: {reason}"
        return f"{said} ({meant.format(id=row.id)})" if meant else said
    if standing(row.state) is Standing.OVER:
        where = f" on {row.hosts}" if row.hosts else ""
        why = f": {reason}" if reason not in ("", "None") else ""
        return f"Slurm job {row.id} ended{where}, {row.state}{why}"
    return f"Slurm job {row.id} is {row.state}" + (f" on {row.hosts}" if row.hosts else "")
