"""What the autoscaler and a provider of nodes say to each other.

The autoscaler chooses the id of an instance and stores it before `Provider.create` is called, so
whichever of the two dies in between, the next `Provider.list` tells what became of it. A provider
therefore has to be able to find its machines again by that id, also in a process that has just
been started: as the name of a pod or of a batch job, in a record on a host. It needs no state of
its own besides, and no table of what was asked: all methods may be called again.

A provider of one's own is a class that is called with one `Cluster` and has these methods. In the
cluster's file, ``provider.type`` is ``external``, ``provider.module`` is ``package.module.Class``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import msgspec

INSTANCE_LABEL = "nbray.io/instance-id"
"""The label of a node that says which instance it is."""

TYPE_LABEL = "nbray.io/node-type"
"""The label of a node that says of which type it is."""


class ProviderError(Exception):
    """A provider cannot do what it was asked; the text is for the user, with what to do.

    The autoscaler shows it, tries again later, and meanwhile believes what `Provider.list` says.
    """


class NodeType(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``available_node_types``.

    Attributes:
        name: its key.
        resources: what a node of it will have: ``CPU``, ``GPU``, ``memory`` in bytes, others.
        labels: what its nodes are labelled with, besides `INSTANCE_LABEL` and `TYPE_LABEL`.
        node_config: the provider's own keys, as they stand in the file.
        min_workers: so many are always there.
        max_workers: more there never are.
        idle_timeout_s: a node without work leaves after so long; None: after the cluster's.
        priority: of types that serve a demand equally well, the higher is started first.
    """

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = {}
    node_config: Mapping[str, Any] = {}
    min_workers: int = 0
    max_workers: int = 0
    idle_timeout_s: float | None = None
    priority: int = 0


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster that a provider makes nodes for.

    Attributes:
        name: ``cluster_name`` of the file; with it a provider marks what is this cluster's.
        address: ``HOST:PORT`` of the GCS, as nodes dial it.
        session: the folder of the head's session; what a provider keeps stands below it.
        token_file: the file with the cluster's token. The token is nowhere else: not on command
            lines, not in what is logged.
        document: the whole file of the cluster, as it was read; ``document["provider"]`` is the
            provider's section.
        types: the node types, by name.
    """

    name: str
    address: str
    session: str
    token_file: str
    document: Mapping[str, Any]
    types: Mapping[str, NodeType]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that is to be made.

    Attributes:
        id: its name for ever: lower-case letters, digits and ``-``, at most 40, first a letter. It
            is never used a second time.
        type: what it is to be.
    """

    id: str
    type: NodeType

    def start_words(self, address: str) -> list[str]:
        """The words of the command that starts its node, behind ``nbray``.

        A node that was started so is known to be this instance. A provider may add words, and
        brings the token: ``NBRAY_AUTH_TOKEN_PATH`` in the environment names a file with it.

        Args:
            address: of the GCS, as this node dials it.
        """
        labels = {**self.type.labels, INSTANCE_LABEL: self.id, TYPE_LABEL: self.type.name}
        words = ["start", f"--address={address}", "--labels", msgspec.json.encode(labels).decode()]
        others = {}
        for name, amount in self.type.resources.items():
            if name in _OWN_OPTIONS:
                words.append(f"--{_OWN_OPTIONS[name]}={_number(amount)}")
            else:
                others[name] = amount
        if others:
            words += ["--resources", msgspec.json.encode(others).decode()]
        return words


_OWN_OPTIONS = {
    "CPU": "num-cpus",
    "GPU": "num-gpus",
    "memory": "memory",
    "object_store_memory": "object-store-memory",
}


def _number(amount: float) -> str:
    return str(int(amount)) if amount == int(amount) else repr(amount)


class Stage(StrEnum):
    """How far an instance is, as its provider sees it; whether its node joined the GCS knows."""

    WAITING = "WAITING"
    """It was asked for and there is no machine yet: a queue, a quota, no room."""

    STARTING = "STARTING"
    """There is a machine, and it is being set up."""

    RUNNING = "RUNNING"
    """The node was started there."""

    ENDED = "ENDED"
    """It failed, or it is over. It is listed until `Provider.terminate` was called."""


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance as its provider knows it at this moment.

    Attributes:
        id: as in `Wanted`.
        type: the name of its type.
        stage: how far it is.
        why: what it waits for, or how it ended, in one sentence in the provider's own words, such
            as ``Slurm job 71 is PENDING: Resources``; shown as the reason why tasks wait.
        place: what the provider calls it: a pod, a job, a host; empty while there is none.
        ends: when the place is going to end it, as a walltime does, in seconds since the epoch;
            None: never. The node is drained, and replaced if it is needed, before that.
        by_others: nobody asked this provider for it, and somebody else starts it, as `nbray up`
            does: it counts as on its way, and is not ended.
    """

    id: str
    type: str
    stage: Stage
    why: str = ""
    place: str = ""
    ends: float | None = None
    by_others: bool = False


class Provider(Protocol):
    """A source of nodes. One process uses it, from one event loop; methods may overlap.

    A method takes as long as the place needs to say what it says, and no longer: `create` returns
    when the machines are asked for, not when they are there. What does not answer is cut off by the
    autoscaler after a minute, and asked again.

    Example:
        >>> class Provider:
        ...     def __init__(self, cluster):
        ...         self.made = {}
        ...
        ...     async def create(self, wanted):
        ...         for one in wanted:
        ...             self.made[one.id] = Instance(
        ...                 id=one.id, type=one.type.name, stage=Stage.STARTING
        ...             )
        ...         return {}
        ...
        ...     async def list(self):
        ...         return list(self.made.values())
        ...
        ...     async def terminate(self, ids):
        ...         for one in ids:
        ...             self.made.pop(one, None)
        ...
        ...     async def logs(self, id):
        ...         return ""
        ...
        ...     async def close(self):
        ...         pass
    """

    async def create(self, wanted: Sequence[Wanted]) -> Mapping[str, str]:
        """Ask for instances; those whose id exists already are left as they are.

        Returns:
            Why, by id, those were refused that there will not be, such as beyond a quota. The
            autoscaler waits longer and longer before it asks for one of that type again.

        Raises:
            ProviderError: none could be asked for, or it is not known which.
        """

    async def list(self) -> Sequence[Instance]:
        """All instances of this cluster that there are, also those that nobody here asked for.

        One that is not listed does not exist: an answer that is not sure to be whole is an error.

        Raises:
            ProviderError: the place does not answer.
        """

    async def terminate(self, ids: Sequence[str]) -> None:
        """End instances, in whatever stage, whether their nodes have left or not.

        Those that do not exist are passed over. Whether it has happened `list` tells.

        Raises:
            ProviderError: the place does not answer, or refuses.
        """

    async def logs(self, id: str) -> str:
        """The last lines of what an instance has said while it was set up and ran; at most 8 KB.

        Also of one that has ended, until `terminate`. Empty if there are none.

        Raises:
            ProviderError: the place does not answer.
        """

    async def close(self) -> None:
        """The autoscaler leaves; the instances stay."""
