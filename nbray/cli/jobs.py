"""``nbray job``: submit programs to a cluster, and follow them."""

from __future__ import annotations

import asyncio
import functools
import json
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from nbray.cli.state import print_as, print_table
from nbray.cli.terminal import CliError, copy, say
from nbray.common.yaml_file import read_yaml
from nbray.exceptions import NbrayError
from nbray.job_submission import JobDetails, JobStatus, JobSubmissionClient

_LOOK_S = 0.5


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Where the cluster is; and what it refuses is one line."""

    @functools.wraps(command)
    def run(
        address: str | None, headers: dict[str, Any] | None, verify: bool | str, **options: Any
    ) -> None:
        try:
            client = JobSubmissionClient(address, headers=headers, verify=verify)
            command(client=client, **options)
        except click.exceptions.Exit:
            raise
        except (NbrayError, OSError, RuntimeError, TypeError, ValueError) as error:
            raise CliError(str(error)) from error

    for option in (
        click.option(
            "--verify", default=True, type=_Verify(), show_default=True,
            help="Of https: false does not check the certificate, a path names the authorities.",
        ),
        click.option("--headers", type=_Json("headers"), help="Sent with every request, as JSON."),
        click.option(
            "--address",
            help="http://HOST:8265 of a dashboard, or HOST:PORT of the head node; "
            "NBRAY_API_SERVER_ADDRESS or the newest cluster here by default.",
        ),
    ):  # fmt: skip
        run = option(run)
    return run


class _Json(click.ParamType[dict[str, Any]]):
    """A JSON object."""

    name = "json"

    def __init__(self, what: str) -> None:
        self._what = what

    def convert(self, value: Any, param: Any, ctx: Any) -> dict[str, Any]:
        """The object of a text."""
        if isinstance(value, dict):
            return value
        try:
            found = json.loads(value)
        except ValueError as error:
            self.fail(f"it is no JSON: {error}", param, ctx)
        if not isinstance(found, dict):
            self.fail(f'{self._what} are a JSON object, as \'{{"a": "b"}}\'.', param, ctx)
        return found


class _Verify(click.ParamType[bool | str]):
    """True, false, or a path."""

    name = "true/false/path"

    def convert(self, value: Any, param: Any, ctx: Any) -> bool | str:
        """What a word says."""
        if isinstance(value, bool):
            return value
        words = {"true": True, "1": True, "false": False, "0": False}
        return words.get(str(value).lower(), str(value))


@click.group("job")
def job() -> None:
    """Submit programs to a cluster, and follow, stop and list them."""


@job.command()
@click.option("--submission-id", help="How the job is called; a random name by default.")
@click.option("--job-id", hidden=True)
@click.option(
    "--runtime-env", "env_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML file with the runtime environment.",
)  # fmt: skip
@click.option("--runtime-env-json", type=_Json("environments"), help="The same as JSON.")
@click.option("--working-dir", help="The folder that is sent, and in which the job runs.")
@click.option("--metadata-json", type=_Json("metadata"), help="Texts that lists show, as JSON.")
@click.option("--entrypoint-num-cpus", type=float, help="CPUs of the command itself.")
@click.option("--entrypoint-num-gpus", type=float, help="GPUs of the command itself.")
@click.option("--entrypoint-memory", type=int, help="Memory of the command itself, in bytes.")
@click.option("--entrypoint-resources", type=_Json("resources"), help="Other resources, as JSON.")
@click.option(
    "--entrypoint-label-selector", type=_Json("labels"), help="Labels of its node, as JSON."
)
@click.option("--no-wait", is_flag=True, help="Do not follow the log until the job has ended.")
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
@_options
def submit(
    client: JobSubmissionClient, submission_id: str | None, job_id: str | None,
    env_file: Path | None, runtime_env_json: dict[str, Any] | None, working_dir: str | None,
    metadata_json: dict[str, str] | None, entrypoint_num_cpus: float | None,
    entrypoint_num_gpus: float | None, entrypoint_memory: int | None,
    entrypoint_resources: dict[str, float] | None,
    entrypoint_label_selector: dict[str, str] | None, no_wait: bool, entrypoint: tuple[str, ...],
) -> None:  # fmt: skip
    """Have a command run in the cluster, as nbray job submit -- python train.py --fast.

    It ends with 1 when the job failed.
    """
    name = client.submit_job(
        entrypoint=shlex.join(entrypoint), submission_id=submission_id or job_id,
        runtime_env=_environment(env_file, runtime_env_json, working_dir), metadata=metadata_json,
        entrypoint_num_cpus=entrypoint_num_cpus, entrypoint_num_gpus=entrypoint_num_gpus,
        entrypoint_memory=entrypoint_memory, entrypoint_resources=entrypoint_resources,
        entrypoint_label_selector=entrypoint_label_selector,
    )  # fmt: skip
    say(f"Job '{name}' submitted successfully")  # where programs look for the id, as in Ray's
    word = shlex.quote(name)
    say(
        f"Next: nbray job logs -f {word} | nbray job status {word} | nbray job stop {word}",
        err=True,
    )
    if no_wait:
        return
    _follow(client, name)
    _tell_status(client, name)
    if client.get_job_status(name) is JobStatus.FAILED:
        raise click.exceptions.Exit(1)


def _environment(
    file: Path | None, given: dict[str, Any] | None, working_dir: str | None
) -> dict[str, Any]:
    if file is not None and given is not None:
        raise click.UsageError("Give either --runtime-env or --runtime-env-json.")
    env = given or {}
    if file is not None:
        try:
            env = read_yaml(file) or {}
        except ValueError as error:
            raise click.BadParameter(f"{file}: {error}", param_hint="--runtime-env") from error
        if not isinstance(env, dict):
            raise click.BadParameter(f"{file} has no mapping.", param_hint="--runtime-env")
    if working_dir is not None:
        env["working_dir"] = working_dir
    return env


def _follow(client: JobSubmissionClient, name: str) -> None:
    async def follow() -> None:
        async for text in client.tail_job_logs(name):
            copy(text)

    asyncio.run(follow())


def _tell_status(client: JobSubmissionClient, name: str) -> JobStatus:
    job = client.get_job_info(name)
    status = job.status or JobStatus.PENDING
    if status is JobStatus.SUCCEEDED:
        say(f"Job '{name}' succeeded")
    elif status is JobStatus.STOPPED:
        say(f"Job '{name}' was stopped")
    elif status is JobStatus.FAILED:
        say(f"Job '{name}' failed")
        say(f"Status message: {job.message}", err=True)
    else:
        say(f"Status for job '{name}': {status}")
        say(f"Status message: {job.message}")
    return status


@job.command()
@click.argument("job-id")
@_options
def status(client: JobSubmissionClient, job_id: str) -> None:
    """Show where a job is in its life, and of one that has not begun, why."""
    _tell_status(client, job_id)


@job.command()
@click.option("--no-wait", is_flag=True, help="Do not wait until nothing of it runs.")
@click.argument("job-id")
@_options
def stop(client: JobSubmissionClient, no_wait: bool, job_id: str) -> None:
    """End a job, also one that has not begun."""
    if not client.stop_job(job_id):
        say(f"Job '{job_id}' had ended already.")
    while not no_wait and not client.get_job_status(job_id).is_terminal():
        time.sleep(_LOOK_S)
    if not no_wait:
        _tell_status(client, job_id)


@job.command()
@click.argument("job-id")
@_options
def delete(client: JobSubmissionClient, job_id: str) -> None:
    """Forget a job that has ended."""
    client.delete_job(job_id)
    say(f"Job '{job_id}' deleted successfully")


@job.command()
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.argument("job-id")
@_options
def logs(client: JobSubmissionClient, follow: bool, job_id: str) -> None:
    """Print what a job has written."""
    if follow:
        _follow(client, job_id)
        _tell_status(client, job_id)
    else:
        copy(client.get_job_logs(job_id))


@job.command("list")
@click.option("--format", "form", type=click.Choice(["table", "json", "yaml"]), default="table")
@_options
def list_jobs(client: JobSubmissionClient, form: str) -> None:
    """List the jobs that were submitted, and the programs that joined by themselves."""
    jobs = client.list_jobs()
    if form != "table":
        print_as([_plain(one) for one in jobs], form)
        return
    if jobs:
        columns = ["submission_id", "job_id", "type", "status", "entrypoint", "since", "message"]
        print_table(columns, [_cells(one) for one in jobs])
    counts: dict[str, int] = {}
    for one in jobs:
        counts[str(one.status)] = counts.get(str(one.status), 0) + 1
    named = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    noun = "job" if len(jobs) == 1 else "jobs"
    say(f"{len(jobs)} {noun}" + (f": {named}." if named else "."))


def _plain(job: JobDetails) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(json.dumps(asdict(job)))
    return fields


def _cells(job: JobDetails) -> list[Any]:
    since = time.strftime("%m-%d %H:%M:%S", time.localtime((job.start_time or 0) / 1000))
    message = (job.message or "").partition("\n")[0][:100]
    return [
        job.submission_id, job.job_id, str(job.type), str(job.status), job.entrypoint[:80], since,
        message,
    ]  # fmt: skip
