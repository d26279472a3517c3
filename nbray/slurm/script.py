"""The job that is a node: what a user may say of it, and its text for sbatch."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

_TIME = re.compile(r"\d+-\d+(:\d+){0,2}|\d+(:\d+){0,2}", re.ASCII)
DRAIN_S = 120
"""So many seconds before its walltime a node is drained, also if no autoscaler does it."""

_STORE_PART = 0.3
"""Of a node's free memory the object store gets so much, as `nbray start` has it."""

_LONG_NAMES = {
    "-A": "--account", "-J": "--job-name", "-N": "--nodes", "-c": "--cpus-per-task",
    "-e": "--error", "-n": "--ntasks", "-o": "--output", "-p": "--partition", "-q": "--qos",
    "-t": "--time", "-C": "--constraint", "-w": "--nodelist", "-x": "--exclude",
}  # fmt: skip


class JobSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user says of the jobs that are nodes: keys of ``provider`` with ``type: slurm``.

    Attributes:
        partition: ``--partition``.
        account: ``--account``.
        walltime: ``--time``, as Slurm writes it; the partition's by default.
        job_extra_directives: more options of sbatch, as ``--qos=debug``.
        job_directives_skip: options that are left out, by their names, as ``--mem``.
        prologue: lines of the script before the node starts, as ``module load cuda``.
        interface: the network interface that nodes listen on, as ``ib0``.
        log_directory: where jobs write, which their hosts must see; below ``~/.nbray`` by default.
        python: the Python that runs nodes; by default the one that runs here.
    """

    partition: str | None = None
    account: str | None = None
    walltime: str | None = None
    job_extra_directives: list[str] = []
    job_directives_skip: list[str] = []
    prologue: list[str] = []
    interface: str | None = None
    log_directory: str | None = None
    python: str | None = None

    @property
    def needs_name(self) -> bool:
        """Whether nobody has asked to leave out the name, by which jobs are found again."""
        return "--job-name" not in {_name(skipped) for skipped in self.job_directives_skip}


def read_settings(*sections: Mapping[str, Any]) -> JobSettings:
    """Settings out of sections of a cluster's file, of which the later win.

    Raises:
        ValueError: something in them cannot be; the text says what.
    """
    said: dict[str, Any] = {}
    for section in sections:
        said.update({key: value for key, value in section.items() if value is not None})
    for key in ("prologue", "job_extra_directives", "job_directives_skip"):
        if isinstance(said.get(key), str):
            said[key] = [said[key]]
    if isinstance(said.get("walltime"), int):
        raise ValueError(
            f"walltime: YAML reads it as the number {said['walltime']}: put it in quotes, as "
            "'1:30:00', or minutes as '90'."
        )
    try:
        settings = msgspec.convert(said, JobSettings)
    except msgspec.ValidationError as error:
        known = ", ".join(JobSettings.__struct_fields__)
        raise ValueError(f"{error} (of Slurm's jobs there are {known})") from None
    _check(settings)
    return settings


def _check(settings: JobSettings) -> None:
    if settings.walltime is not None and not _TIME.fullmatch(settings.walltime):
        raise ValueError(
            f"walltime {settings.walltime!r} is no time of Slurm's: give minutes, "
            "hours:minutes:seconds or days-hours:minutes:seconds."
        )
    if settings.walltime is not None and walltime_s(settings.walltime) < 2 * DRAIN_S:
        raise ValueError(
            f"walltime {settings.walltime!r} is too short: a node is drained {DRAIN_S} s before "
            "its end."
        )
    if not settings.needs_name:
        raise ValueError("job_directives_skip: jobs are found again by --job-name, so it stays.")
    for text in [*settings.job_extra_directives, *settings.job_directives_skip]:
        if not text.startswith("-"):
            raise ValueError(f"{text!r} is no option of sbatch: it begins with a dash.")
    for name in JobSettings.__struct_fields__:
        value = getattr(settings, name)
        for text in [value] if isinstance(value, str) else value or ():
            if "\0" in text or (name != "prologue" and "\n" in text):
                raise ValueError(f"{name}: {text!r} is more than one line.")


def walltime_s(text: str) -> int:
    """Seconds of a time limit: ``90`` (minutes), ``1:30:00``, ``2-12``, ``2-12:30:00``."""
    days, dash, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts.insert(0, 0)  # minutes come first
    hours, minutes, seconds = (*parts, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One job that is a node.

    Attributes:
        name: by which it is found again.
        output: the file that it writes; ``%j`` in it is the job's number, ``%%`` a per cent sign.
        words: what starts its node, behind ``nbray``.
        token_file: has the cluster's token; its hosts see it.
        resources: of its node: ``CPU``, ``GPU``, ``memory`` and ``object_store_memory`` in bytes.
    """

    name: str
    output: str
    words: Sequence[str]
    token_file: str
    resources: Mapping[str, float]


def job_script(settings: JobSettings, job: Job) -> str:
    """The text of a job, for sbatch."""
    skipped = {_name(text) for text in settings.job_directives_skip}
    extra = {_name(text) for text in settings.job_extra_directives}
    directives = [
        *(text for text in _directives(settings, job) if _name(text) not in skipped | extra),
        *settings.job_extra_directives,
    ]
    words = [*job.words, "--block"]
    if settings.interface is not None:
        words.append(f"--interface={settings.interface}")
    start = [settings.python or sys.executable, "-P", "-m", "nbray.cli", *words]
    lines = [
        "#!/usr/bin/env bash",
        *(f"#SBATCH {directive}" for directive in directives),
        "",
        *settings.prologue,
        "unset NBRAY_AUTH_TOKEN",
        f"export NBRAY_AUTH_TOKEN_PATH={shlex.quote(job.token_file)}",
        "exec " + " ".join(map(shlex.quote, start)),
    ]
    return "\n".join(lines) + "\n"


def _directives(settings: JobSettings, job: Job) -> Iterator[str]:
    said = (
        ("job-name", job.name), ("output", job.output), ("partition", settings.partition),
        ("account", settings.account), ("time", settings.walltime), ("nodes", "1"), ("ntasks", "1"),
        ("cpus-per-task", str(max(1, math.ceil(job.resources.get("CPU", 1))))),
        ("mem", _memory(job.resources)), ("gres", _gpus(job.resources)),
        ("signal", f"B:USR1@{DRAIN_S}"),
    )  # fmt: skip
    for name, value in said:
        if value is not None:
            yield f"--{name}={shlex.quote(value)}"
    yield "--no-requeue"  # a node that is lost is replaced by a new one, with a name of its own


def _memory(resources: Mapping[str, float]) -> str | None:
    """The job's memory: that of tasks and the store together."""
    tasks, store = resources.get("memory"), resources.get("object_store_memory")
    if tasks is None:
        return None
    whole = tasks / (1 - _STORE_PART) if store is None else tasks + store
    return f"{math.ceil(whole / (1 << 20))}M"


def _gpus(resources: Mapping[str, float]) -> str | None:
    count = math.ceil(resources.get("GPU", 0))
    return f"gpu:{count}" if count else None


def task_memory(whole: int) -> int:
    """What a job of so many bytes has for tasks."""
    return int(whole * (1 - _STORE_PART))


def _name(directive: str) -> str:
    """The option of a directive, by its long name."""
    if directive.startswith("--"):
        return re.split(r"[=\s]", directive, maxsplit=1)[0]
    return _LONG_NAMES.get(directive[:2], directive[:2])


def without_overridden(variables: Mapping[str, str], script: str) -> dict[str, str]:
    """The environment for sbatch.

    Variables of sbatch win over what a script says, so those of which it says something go, and so
    does what an outer job, a kernel or another cluster has left there.
    """
    said = {
        "SBATCH_" + _name(line.removeprefix("#SBATCH ")).strip("-").upper().replace("-", "_")
        for line in script.splitlines() if line.startswith("#SBATCH ")
    }  # fmt: skip
    if "SBATCH_TIME" in said:
        said.add("SBATCH_TIMELIMIT")
    return {
        name: value for name, value in variables.items()
        if name in _KEPT - said or (not name.startswith(_FOREIGN)
        and not (name == "MPLBACKEND" and "inline" in value))
    }  # fmt: skip


_KEPT = {
    "SLURM_CONF", "SLURM_CLUSTERS", "SBATCH_ACCOUNT", "SBATCH_CLUSTERS", "SBATCH_CONSTRAINT",
    "SBATCH_EXPORT", "SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_RESERVATION", "SBATCH_TIMELIMIT",
}  # fmt: skip
_FOREIGN = (
    "SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "JPY_", "NBRAY_ADDRESS", "NBRAY_AUTH_TOKEN",
    "NBRAY_NODE_",
)  # fmt: skip
