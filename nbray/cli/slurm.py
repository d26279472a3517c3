"""``nbray slurm``: what concerns clusters whose nodes are jobs."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from nbray.cli.declared import declared_options
from nbray.cli.terminal import CliError, say
from nbray.common.session import Session
from nbray.launcher.found import node_of, running_sessions
from nbray.launcher.token import token_path
from nbray.options.option import SIZE, Scope
from nbray.slurm.commands import SlurmError
from nbray.slurm.document import SETTINGS, node_resources
from nbray.slurm.homes import ClusterHome, job_name
from nbray.slurm.leaving import end_cluster
from nbray.slurm.script import Job, JobSettings, job_script, read_settings

_JOBS_END_S = 60.0


@click.group()
def slurm() -> None:
    """Nodes that are jobs of Slurm."""


def _size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    try:
        return None if text is None else SIZE.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}.") from error


@slurm.command()
@click.argument("file", required=False,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--type", "kind", help="One of FILE's available_node_types.")
@click.option("--address", help="HOST:PORT of the head; by default the newest cluster here.")
@click.option("--num-cpus", type=click.FloatRange(min=0), help="CPUs of the job.")
@click.option("--num-gpus", type=click.FloatRange(min=0), help="GPUs of the job.")
@click.option("--memory", callback=_size, metavar="SIZE", help="Memory of the job, as 16GB.")
@declared_options(Scope.SLURM, without=("jobs",))
def script(
    file: Path | None, kind: str | None, address: str | None, num_cpus: float | None,
    num_gpus: float | None, memory: int | None, **settings: Any,
) -> None:  # fmt: skip
    """Print the script of a job that is a node.

    It is the one that is submitted for the cluster of FILE, or for `%nbray start --slurm` with the
    same options. Given to sbatch, it adds a node to the cluster at --address:

        nbray slurm script --partition=main | sbatch
    """
    if address is None:
        started = (info for _, info in running_sessions() if info["for_programs"])
        address = next((info["gcs_address"] for info in started), "HOST:PORT")
    try:
        if file is not None:
            _refuse_options_with_file()
            text = _of_file(file, kind, address)
        else:
            text = _of_options(address, settings, node_resources(num_cpus, num_gpus, memory))
    except ValueError as error:
        raise CliError(str(error)) from error
    sys.stdout.write(text)


@slurm.command()
@click.argument("name")
@click.option("-f", "--force", is_flag=True,
              help="Also if the head is on another machine, where it may still run.")  # fmt: skip
def cancel(name: str, force: bool) -> None:
    """Cancel all jobs of the cluster NAME, whose head has ended."""
    try:
        home = ClusterHome(name)
        holder = home.holder
        if holder is not None and holder.runs_here(_runs):
            raise CliError(
                f"The head of cluster {name} runs here, and would submit new ones: `nbray down` or "
                "`nbray stop` ends it."
            )
        if holder is not None and holder.host != socket.gethostname() and not force:
            raise CliError(
                f"The head of cluster {name} is on {holder.host}: run this there, or give --force "
                "if it has ended."
            )
        count, left = end_cluster(home, _JOBS_END_S)
    except (SlurmError, ValueError) as error:
        raise CliError(str(error)) from error
    if left:
        raise CliError(f"After {_JOBS_END_S:g} s jobs have not ended: {', '.join(left[:20])}.")
    say(f"Cancelled {count} job(s) of Slurm.")


def _runs(session: Path) -> bool:
    return session.exists() and bool(node_of(Session(session)).processes)


def _refuse_options_with_file() -> None:
    context = click.get_current_context()
    for name in ("num_cpus", "num_gpus", "memory", *SETTINGS):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} stands in FILE.")


def _of_options(address: str, given: dict[str, Any], resources: dict[str, float]) -> str:
    settings = read_settings(given)
    folder = Path(settings.log_directory or ".").expanduser().absolute()
    words = ["start", f"--address={address}", f"--num-cpus={resources['CPU']:g}"]
    if "GPU" in resources:
        words.append(f"--num-gpus={resources['GPU']:g}")
    job = Job(
        name="nbray", output=f"{str(folder).replace('%', '%%')}/nbray-%j.out", words=words,
        token_file=str(token_path()), resources=resources,
    )  # fmt: skip
    return job_script(settings, job)


def _of_file(file: Path, kind: str | None, address: str) -> str:
    from nbray.autoscaler.config import read
    from nbray.autoscaler.providers.base import Wanted

    given = read(file)
    if given.kind != "slurm":
        raise ValueError(f"{file}: provider.type is {given.kind!r}, not slurm.")
    types = given.types
    name = kind or next(iter(types))
    if name not in types:
        raise ValueError(f"{file} has the types {', '.join(types)}, and none {name!r}.")
    section = {key: value for key, value in given.document["provider"].items() if key != "type"}
    settings: JobSettings = read_settings(section, types[name].node_config)
    home = ClusterHome(given.name)
    folder = Path(settings.log_directory or home.path / "logs").expanduser().absolute()
    wanted = Wanted(id="INSTANCE", type=types[name])
    job = Job(
        name=job_name(given.name, name, wanted.id), token_file=str(home.token),
        output=str(folder / home.log_name(wanted.id)).replace("%", "%%"),
        words=wanted.start_words(address), resources=types[name].resources,
    )  # fmt: skip
    return job_script(settings, job)
