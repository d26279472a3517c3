"""What Ray cannot give a notebook, each with the reason; the documents' table has the same rows."""

from __future__ import annotations

from nbray.exceptions import NbrayError

REFUSED = {
    "%nbray scale": "Ray's nodes are started by `ray start` or by its autoscaler: its public API "
    "starts and ends none",
    "%nbray up": "it starts a cluster of nbray's; for Ray, `ray up` in a shell",
    "%nbray down": "it ends a cluster of nbray's; for Ray, `ray down` in a shell",
    "%nbray start --address": "a machine joins a Ray cluster by `ray start --address=HOST:PORT` in "
    "a shell",
    "%nbray start --slurm": "nbray's processes are what it starts by Slurm",
    "%nbray debug": "the frames of a failed task stay in Ray's worker: its own `ray debug` shows "
    "them",
    "%nbray profile": "Ray's workers have no profiler that a driver may start: its dashboard has",
    "%%remote --profile": "Ray's workers have no profiler that a driver may start: its dashboard "
    "has",
}
"""By what the person wrote, as the message begins."""
REFUSED_FROM_AFAR = {
    "%%remote --detach": "Ray's client opens what is handed over in a process that has not all of "
    "nbray; a kernel on a machine of the cluster can detach",
}
"""The same, of a notebook that came by Ray's client."""


class RefusedByRayError(NbrayError, RuntimeError):
    """Ray's public API has no such thing; the text says which, and why."""


def refused(what: str) -> RefusedByRayError:
    """The error that says why Ray cannot give it."""
    return RefusedByRayError(f"{what} is not there with Ray as the engine: {REFUSED[what]}.")
