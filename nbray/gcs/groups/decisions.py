"""What the machine of groups wants done; `nbray.gcs.groups.table` does it, in the order given."""

from __future__ import annotations

from dataclasses import dataclass

from nbray.gcs.groups.life import GroupLife
from nbray.wire.gcs_messages import BundleKey, BundleRequest
from nbray.wire.records import JobConfig


@dataclass(frozen=True)
class Keep:
    """Write the row of a group."""

    life: GroupLife


@dataclass(frozen=True)
class Forget:
    """Delete the row of a group that was removed long ago."""

    group_id: bytes


@dataclass(frozen=True)
class Durable:
    """Go on when all that was written so far is durable."""


@dataclass(frozen=True)
class Reserve:
    """Ask a node for bundles, once; `Groups.answered` takes the answer, or that there is none.

    ``patient``: the groups for which it keeps what becomes free.
    """

    node_id: bytes
    bundles: tuple[BundleRequest, ...]
    patient: tuple[bytes, ...]


@dataclass(frozen=True)
class Commit:
    """Let bundles be used; asked until the node answers (`Groups.committed`) or is dead."""

    node_id: bytes
    keys: tuple[BundleKey, ...]


@dataclass(frozen=True)
class Release:
    """Give bundles back; asked until the node answers or is dead, then `Groups.released`."""

    node_id: bytes
    keys: tuple[BundleKey, ...]


@dataclass(frozen=True)
class Decided:
    """A group is created or removed: wake who waits for that."""

    group_id: bytes


@dataclass(frozen=True)
class Created:
    """Groups can be used: what waits for one is placed."""


@dataclass(frozen=True)
class EndActors:
    """A group is removed: the actors in it end."""

    group_id: bytes


@dataclass(frozen=True)
class Warn:
    """Show the driver of a job why its group, which has that origin, waits."""

    job: JobConfig
    text: str
    origin: int


@dataclass(frozen=True)
class LookAgain:
    """Look for places again, in so many seconds."""

    after_s: float


Decision = (
    Keep | Forget | Durable | Reserve | Commit | Release
    | Decided | Created | EndActors | Warn | LookAgain
)  # fmt: skip
