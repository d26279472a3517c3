"""The messages of growing and shrinking: the autoscaler, the GCS, and the raylets that drain."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from nbray.wire.records import BundleSpec, Index, NodeInfo, Size
from nbray.wire.state_messages import DemandRow
from nbray.wire.strategies import GroupStrategy, Selectors

SCALING = b"_nbray_scaling"
"""The namespace of the autoscaler in the key-value space."""

REQUESTED = b"requested"
"""The key of what programs asked for by `request_resources`: a `Requested`."""


class Requested(msgspec.Struct, array_like=True):
    """A program to the autoscaler: have room for all of these, until another one asks.

    Attributes:
        bundles: resources in units of 1/10000.
        selectors: conditions on labels, one for each bundle.
    """

    bundles: list[dict[str, Size]]
    selectors: list[Selectors] = []


BOUNDS = b"bounds"
"""The key of the bounds that somebody set instead of the file's: a `Bounds`."""


class Hold(StrEnum):
    """A cluster that does not grow until it is brought up again."""

    NO = ""
    LEAST = "least"
    """Of each type as many nodes as there have to be."""

    NONE = "none"
    """No node but the head."""


class Bounds(msgspec.Struct, array_like=True):
    """A program to the autoscaler: so many nodes of ``type`` at least, and so many in all.

    Without a type, of the first of the file. ``hold``, if it is given, is instead of the numbers.
    """

    least: Index
    most: Index
    type: str = ""
    hold: Hold = Hold.NO


class DrainNode(msgspec.Struct, array_like=True):
    """To the GCS, and by it to the raylet: take nothing new, and leave. Answered by `Drained`.

    With ``only_idle`` it refuses while it has work; else what runs has ``deadline_s`` seconds to
    end, 0: as long as it takes. Asked a second time, it is the same drain.
    """

    node_id: bytes
    reason: str
    deadline_s: float = 0.0
    only_idle: bool = False


class Drained(msgspec.Struct, array_like=True):
    """Whether the node drains now, or has left; ``why`` not.

    Its raylet may be ``silent`` so far: it is to be asked again, and may drain all the same.
    """

    accepted: bool
    why: str = ""
    silent: bool = False


class WaitingGroup(msgspec.Struct, array_like=True):
    """A placement group that waits: the bundles that have no place yet."""

    group_id: bytes
    strategy: GroupStrategy
    bundles: list[BundleSpec]
    elsewhere: list[bytes]
    name: str = ""


class Snapshot(msgspec.Struct, array_like=True):
    """GCS, answer to ``ScalingSnapshot``: all that a plan is made of, of one moment.

    ``nodes`` are those that are alive; one that came back and keeps its tables in memory does not
    know all of them in its first seconds: ``up_s`` is for how long it has run.
    """

    nodes: list[NodeInfo]
    waiting: list[DemandRow]
    groups: list[WaitingGroup]
    requested: Requested | None = None
    bounds: Bounds | None = None
    up_s: float = 0.0


class InstanceRow(msgspec.Struct, array_like=True):
    """An instance of the autoscaler, for people; ``kept_by`` as of its node, or why it stays."""

    id: str
    type: str
    state: str
    since: float
    node_id: bytes = b""
    place: str = ""
    why: str = ""
    kept_by: list[str] = []


class ScalingFailure(msgspec.Struct, array_like=True):
    """A node that did not come to be; ``lines`` are the last of its set-up."""

    type: str
    when: float
    why: str
    lines: str = ""


class ScalingReport(msgspec.Struct, array_like=True):
    """The autoscaler to the GCS, again and again: what it does. Answered by `Empty`.

    Attributes:
        at: when, in seconds since the epoch.
        cluster: ``cluster_name``.
        bounds: least and most nodes of each type.
        most: nodes of all types together, without the head.
        rows: the instances.
        failures: the newest last.
        troubles: what keeps the autoscaler itself from its work: its file, its provider.
        unmet: sentences on demand that no node will be started for.
        coming: sentences on what is started for those who wait.
        requested: what `request_resources` asked for, as far as it is shown.
    """

    at: float
    cluster: str
    bounds: dict[str, tuple[int, int]]
    most: int
    rows: list[InstanceRow]
    failures: list[ScalingFailure] = []
    troubles: list[str] = []
    unmet: list[str] = []
    coming: list[str] = []
    requested: list[dict[str, int]] = []


class Scaling(msgspec.Struct, array_like=True):
    """GCS, answer to ``Scaling``: the autoscaler's last report, if there ever was one."""

    report: ScalingReport | None = None


class TakeObject(msgspec.Struct, array_like=True):
    """An object that moves: where its owner is, and how large it is."""

    object_id: bytes
    size: Size
    owner_id: bytes
    owner_node: bytes


class TakeObjects(msgspec.Struct, array_like=True):
    """A raylet that drains to another: keep these for me. Answered by `ObjectsTaken`."""

    source: bytes
    objects: list[TakeObject]


class ObjectsTaken(msgspec.Struct, array_like=True):
    """Those that are there now, and whose owners know it; ``why`` others are not."""

    object_ids: list[bytes]
    why: str = ""
