"""What the autoscaler of a cluster says of itself, as rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbray.common.resources import from_units
from nbray.state.queries import Query
from nbray.wire import scaling_messages as sm


@dataclass(frozen=True)
class InstanceState:
    """A node that the autoscaler launched, or one on its way.

    Attributes:
        state: QUEUED, REQUESTED, STARTING, RUNNING, DRAINING or TERMINATING.
        since: when that began, in seconds since the epoch.
        why: what it waits for, or for what it was launched.
        kept_by: what keeps it from being idle or from leaving, in words.
    """

    id: str
    type: str
    state: str
    since: float
    node_id: str
    place: str
    why: str
    kept_by: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class ScalingFailureState:
    """A node that did not come to be; ``lines`` are the last of its set-up."""

    type: str
    when: float
    why: str
    lines: str


@dataclass(frozen=True)
class ScalingState:
    """The autoscaler's last word; see `nbray.wire.scaling_messages.ScalingReport`."""

    at: float
    cluster: str
    bounds: dict[str, tuple[int, int]]
    most: int
    instances: list[InstanceState]
    failures: list[ScalingFailureState]
    troubles: list[str]
    unmet: list[str]
    coming: list[str]
    requested: list[dict[str, float]]


def _scaling(reply: sm.Scaling) -> ScalingState | None:
    report = reply.report
    if report is None:
        return None
    rows = [
        InstanceState(
            row.id, row.type, row.state, row.since, row.node_id.hex(), row.place, row.why,
            row.kept_by,
        )
        for row in report.rows
    ]  # fmt: skip
    failures = [ScalingFailureState(x.type, x.when, x.why, x.lines) for x in report.failures]
    return ScalingState(
        report.at, report.cluster, report.bounds, report.most, rows, failures, report.troubles,
        report.unmet, report.coming, [from_units(bundle) for bundle in report.requested],
    )  # fmt: skip


SCALING = Query("Scaling", sm.Scaling, _scaling)
