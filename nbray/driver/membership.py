"""What this program's cluster is to it, and what stands in it now: for notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nbray.driver.cluster import described, free_of, node_rows, total_of
from nbray.driver.driver import current_driver


@dataclass(frozen=True)
class Membership:
    """This program's part in a cluster.

    Attributes:
        address: of the cluster, as HOST:PORT.
        started_here: the cluster ends with this program.
        lost: why it cannot be reached any more; "" while it can.
        reconnecting: of a remote driver, for how long its connection is being made anew; "" while
            there is one.
    """

    address: str
    started_here: bool
    lost: str
    reconnecting: str = ""


def membership() -> Membership | None:
    """That of this program; None when it is in no cluster."""
    driver = current_driver()
    if driver is None:
        return None
    error = driver.core.given_up
    lost = "" if error is None else str(error)
    away = "" if driver.remote is None or lost else driver.remote.state.text
    return Membership(driver.address, driver.node is not None, lost, away)


@dataclass(frozen=True)
class ClusterNow:
    """The cluster at one moment.

    Attributes:
        nodes: as `nbray.nodes` tells them.
        total: the resources of those that are alive.
        free: what is free of them.
    """

    nodes: list[dict[str, Any]]
    total: dict[str, float]
    free: dict[str, float]


def cluster_now(timeout: float) -> ClusterNow:
    """Ask once.

    Raises:
        GetTimeoutError: there was no answer in ``timeout`` seconds.
        LocalRayletDiedError: this program has lost its cluster.
    """
    rows = node_rows(timeout)
    return ClusterNow(described(rows), total_of(rows), free_of(rows))
