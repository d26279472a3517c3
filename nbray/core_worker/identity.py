"""Who this process is in the cluster."""

from __future__ import annotations

from nbray.common.ids import TaskIDFactory
from nbray.common.limits import cpu_count
from nbray.core_worker.context import TaskContext
from nbray.wire.records import ActorSpec, Address, JobConfig
from nbray.wire.strategies import InGroup, Strategy


class Identity:
    """What its parts need to know of it.

    Attributes:
        cores: how many it may keep busy on its machine.
        address: where it listens; of no node until a raylet took it in.
        job: which it works for; there is none before `set_job`.
        actor: what it is, if it is one.
        actor_group: the placement group of its actor.
        actor_shown: how its actor shows itself.
        newest_task: what began here last, whichever thread runs it.
    """

    address: Address
    job: JobConfig
    new_task_id: TaskIDFactory

    def __init__(self, worker_id: bytes) -> None:
        self.worker_id = worker_id
        self.cores = cpu_count()
        self.has_job = False
        self.actor: ActorSpec | None = None
        self.actor_group: InGroup | None = None
        self.actor_shown = ""
        self.newest_task: TaskContext | None = None

    def set_job(self, job: JobConfig) -> None:
        """Work for this job from now on."""
        self.job = job
        self.new_task_id = TaskIDFactory(job.job_id)
        self.has_job = True

    def become_actor(self, spec: ActorSpec) -> None:
        """This process is that actor's from now on."""
        self.actor, self.actor_group = spec, group_of(spec.options.strategy)
        self.actor_shown = spec.class_name


def group_of(strategy: Strategy) -> InGroup | None:
    """The placement group that a strategy names."""
    return strategy if isinstance(strategy, InGroup) else None
