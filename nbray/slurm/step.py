"""What Slurm's variables tell a process about its place among those of its step.

A step is what one ``srun`` starts: the same command as often as there are tasks. Slurm numbers
them from 0; the task 0 stands on the first host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nbray.slurm.hostlist import expand


class NotInStepError(Exception):
    """Slurm runs this process, but not as a task of ``srun``; the text says what to do."""


@dataclass(frozen=True)
class Step:
    """One task of a step.

    Attributes:
        key: names the step for ever: no other one of any cluster, restart or job has it.
        rank: the number of this task.
        tasks: how many there are.
        local: the number of this task among those of its host.
        hosts: the step's, the first first.
        launch_host: an address of the machine on which ``srun`` runs; empty if it is not told.
    """

    key: str
    rank: int
    tasks: int
    local: int
    hosts: tuple[str, ...]
    launch_host: str


def is_in_job(variables: Mapping[str, str]) -> bool:
    """Whether the process belongs to a job of Slurm's."""
    return "SLURM_JOB_ID" in variables


def find_step(variables: Mapping[str, str]) -> Step:
    """The step that this process is a task of.

    Raises:
        NotInStepError: the process is the script of a batch job, or a shell of ``salloc``.
        ValueError: the variables are not as Slurm writes them.
    """
    if "SLURM_STEP_ID" not in variables or "SLURM_PROCID" not in variables:
        raise NotInStepError(
            "Slurm has given this job "
            f"{variables.get('SLURM_JOB_NUM_NODES', 'its')} node(s), and this command runs on one "
            "alone. Have it run on each: srun --ntasks-per-node=1 nbray symmetric-run ... "
            "(or name one by --address)."
        )
    job = variables.get("SLURM_HET_JOB_ID") or variables["SLURM_JOB_ID"]
    restart = variables.get("SLURM_RESTART_COUNT") or "0"
    parts = [variables.get("SLURM_CLUSTER_NAME", "slurm"), job, variables["SLURM_STEP_ID"], restart]
    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST", "")
    return Step(
        "-".join(_for_a_name(part) for part in parts),
        int(variables["SLURM_PROCID"]),
        int(variables.get("SLURM_STEP_NUM_TASKS") or variables.get("SLURM_NTASKS") or 1),
        int(variables.get("SLURM_LOCALID") or 0),
        tuple(expand(nodes)),
        variables.get("SLURM_LAUNCH_NODE_IPADDR", ""),
    )


def _for_a_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)
