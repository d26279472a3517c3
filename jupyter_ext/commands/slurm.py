"""``%nbray start --slurm``: a cluster whose nodes are jobs, with its head beside the notebook."""

from __future__ import annotations

import argparse
import json
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.error import UsageError

from nbray.common.addresses import interface_address, own_address
from nbray.notebook import engine
from nbray.options.option import Scope
from nbray.options.table import options_of
from nbray.slurm.document import SETTINGS, document, node_resources
from nbray.slurm.homes import ClusterHome, cluster_homes
from nbray.slurm.leaving import cancel_cluster

from ..pictures.tables import count
from .parser import Parser, add_declared, given

_OF_NODES = ("num_cpus", "num_gpus", "memory", "object_store_memory", "resources", "labels")
"""Options of ``%nbray start`` that with ``--slurm`` say what jobs have, and not the head."""


def add_arguments(parser: Parser) -> None:
    """The options of a line."""
    group = parser.add_argument_group(
        "with --slurm",
        "each node is a job, with --num-cpus (1), --num-gpus, --memory (all of the job), "
        "--object-store-memory, --resources and --labels; the head is here and runs no tasks",
    )
    group.add_argument("--slurm", action="store_true", help="nodes are jobs of Slurm")
    add_declared(group, Scope.SLURM, _own_options())


def _own_options() -> list[str]:
    """The options of ``--slurm`` that ``%nbray start`` has not anyway."""
    return [name for name in options_of(Scope.SLURM) if name not in options_of(Scope.START)]


def options(arguments: argparse.Namespace, others: Mapping[str, Any]) -> dict[str, Any]:
    """What becomes of the options of a line with ``--slurm``; its cluster's file is written.

    Args:
        arguments: the line.
        others: its options that do not concern Slurm, by the names of ``nbray start``.

    Raises:
        UsageError: they do not fit, or Slurm is not here.
    """
    said = given(arguments, *_own_options())
    if not arguments.slurm:
        if said:
            raise UsageError(f"%nbray start: --{next(iter(said)).replace('_', '-')} needs --slurm.")
        return {}
    if arguments.detach:
        raise UsageError(
            "%nbray start: a cluster with --slurm ends with this kernel. One that does not: "
            "`nbray start --head --autoscaling-config FILE`, with provider.type slurm in FILE."
        )
    if shutil.which("sbatch") is None:
        raise UsageError(
            "%nbray start --slurm: there is no sbatch here. Run this notebook where jobs are "
            "submitted, such as a login node."
        )
    home = ClusterHome(f"notebook-{secrets.token_hex(4)}")
    try:
        resources = node_resources(
            others.get("num_cpus"), others.get("num_gpus"), others.get("memory"),
            others.get("object_store_memory"), others.get("resources"),
        )  # fmt: skip
        settings = {name: said[name] for name in SETTINGS if name in said}
        jobs = said.get("jobs", (1, 1))
        file = document(home.name, jobs, resources, others.get("labels") or {}, settings)
        host = others.get("node_ip_address") or _host(others.get("interface"))
        home.path.mkdir(mode=0o700, parents=True)
        path = home.path / "cluster.yaml"
        path.write_text(json.dumps(file, indent=1))  # JSON is YAML, and quotes what it has to
    except (OSError, ValueError) as error:
        raise UsageError(f"%nbray start --slurm: {error}") from error
    return {
        "num_cpus": 0, "num_gpus": None, "resources": None, "labels": None, "memory": None,
        "object_store_memory": None, "node_ip_address": host, "interface": None,
        "autoscaling_config": path,
    }  # fmt: skip


def _host(interface: str | None) -> str:
    """The address of this machine that hosts of jobs reach."""
    if interface is not None:
        try:
            return interface_address(interface)
        except ValueError:
            pass  # login nodes may be outside of the fast network
    return own_address("192.0.2.1:9")  # nobody: the way out of this machine


def home_of_cluster() -> ClusterHome | None:
    """The folder of the cluster of this kernel, if its nodes are jobs that it has asked for."""
    session = Path(engine().cluster.logs()).parent
    return next((home for home in cluster_homes() if home.is_held_by(session)), None)


def end(home: ClusterHome) -> str:
    """Cancel the jobs of a cluster whose head has ended; returns what happened."""
    try:
        cancelled = cancel_cluster(home)
    except RuntimeError as error:
        return (
            f"Its jobs of Slurm were not cancelled: {error}. They end by themselves when they "
            "find no head."
        )
    return f"{count(cancelled, 'job')} of Slurm cancelled."
