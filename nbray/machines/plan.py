"""From what is wanted and what hosts have to the steps between: pure."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nbray.machines.found import Found


class Step(enum.Enum):
    """What is done on a host, in this order."""

    STOP = "stop its node"
    CONTAINER = "make its container"
    FILES = "copy files"
    SETUP = "run the set-up commands"
    START = "start its node"
    COME_BACK = "bring its node back"
    SCALING = "tell its autoscaler"


class Restart(enum.Enum):
    """What `up` was told of nodes that run."""

    IF_CHANGED = enum.auto()
    NEVER = enum.auto()
    ALL_WITHOUT_SETUP = enum.auto()


@dataclass(frozen=True)
class Machine:
    """A machine as the file names it.

    Attributes:
        name: its address or name, which is its identity in the cluster.
        is_head: whether the GCS runs there.
        reached_at: where ssh connects to.
        listens_at: its address for nodes; empty: as ssh finds it.
    """

    name: str
    is_head: bool = False
    reached_at: str = ""
    listens_at: str = ""

    @property
    def target(self) -> str:
        """Where ssh connects to."""
        return self.reached_at or self.name


@dataclass(frozen=True)
class Wanted:
    """What a machine is to have: hashes of its files, its set-up, its start and its container.

    ``scaling`` is of what the head's autoscaler was handed, if there is one.
    """

    machine: Machine
    files: str
    setup: str
    start: str
    container: str = ""
    scaling: str = ""


@dataclass(frozen=True)
class NodePlan:
    """The steps of one machine, and why; none if all is as it is wanted."""

    machine: Machine
    steps: tuple[Step, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        nodes: one for each machine that answered, the head first.
        leaving: machines that are in the file no more, whose nodes end.
        failed: machines that did not answer, and why.
    """

    nodes: tuple[NodePlan, ...] = ()
    leaving: tuple[Machine, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.leaving and not any(node.steps for node in self.nodes)

    @property
    def ends_something(self) -> bool:
        """Whether a node that runs is ended on the way."""
        return bool(self.leaving) or any(Step.STOP in node.steps for node in self.nodes)


def make_plan(
    wanted: Sequence[Wanted], found: Mapping[str, Found], restart: Restart = Restart.IF_CHANGED
) -> Plan:
    """The steps for all machines.

    Args:
        wanted: one for each machine, the head first.
        found: what each answered, by name.
        restart: what becomes of nodes that run.
    """
    head = wanted[0]
    failed = {
        one.machine.name: found[one.machine.name].error
        for one in wanted
        if found[one.machine.name].error
    }
    if head.machine.name in failed:
        return Plan(failed=failed)
    of_head = found[head.machine.name]
    first = _node_plan(head, of_head, restart, "")
    anew = Step.START in first.steps
    nodes = [first]
    for one in wanted[1:]:
        if one.machine.name not in failed:
            session = "" if anew else of_head.session
            nodes.append(_node_plan(one, found[one.machine.name], restart, session))
    names = {one.machine.name for one in wanted}
    leaving = tuple(Machine(name) for name in of_head.hosts if name not in names)
    return Plan(tuple(nodes), leaving, failed)


def _node_plan(wanted: Wanted, found: Found, restart: Restart, session: str) -> NodePlan:
    """Of one machine; ``session`` is the head's, which a worker is to have joined."""
    machine = wanted.machine
    if wanted.container and found.container != wanted.container:
        if restart is Restart.NEVER and found.runs:
            return NodePlan(machine)
        why = "its container is another one" if found.container else "it has no container"
        stop = (Step.STOP,) if found.container else ()
        return NodePlan(machine, (*stop, Step.CONTAINER, Step.FILES, Step.SETUP, Step.START), why)
    steps, reasons = _setting_up(wanted, found)
    if restart is Restart.ALL_WITHOUT_SETUP:
        steps, reasons = [], ["--restart-only"]
    if not found.runs:
        back = found.can_come_back and found.start == wanted.start
        steps.append(Step.COME_BACK if back else Step.START)
        reasons.append(_why_it_does_not_run(found, back))
        if found.session and not back:
            steps.insert(0, Step.STOP)  # what it left: its folder, perhaps a process
    elif restart is not Restart.NEVER:
        if found.start != wanted.start:
            reasons.append("its start has changed" if found.start else "its start was cut off")
        if not machine.is_head and found.joined != session:
            reasons.append("the head is a new one" if not session else "it is of another head")
        if reasons:
            steps = [Step.STOP, *steps, Step.START]
    changed = wanted.scaling not in ("", found.scaling)
    if changed and found.runs and Step.START not in steps:
        steps.append(Step.SCALING)
        reasons.append("what comes and goes has changed")
    return NodePlan(machine, tuple(steps), ", ".join(reasons))


def _setting_up(wanted: Wanted, found: Found) -> tuple[list[Step], list[str]]:
    steps, reasons = [], []
    if found.files != wanted.files:
        steps.append(Step.FILES)
        if found.files:
            reasons.append("files have changed")
    if found.setup != wanted.setup:
        steps.append(Step.SETUP)
        if not reasons:
            reasons.append("set-up commands have changed" if found.setup else "it was not set up")
    return steps, reasons


def _why_it_does_not_run(found: Found, back: bool) -> str:
    if back:
        return "its node has crashed, and its session is there"
    return "its node has ended" if found.session else "no node runs there"
