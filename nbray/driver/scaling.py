"""What a program says to the autoscaler of its cluster, and hears of it.

It is left in the key-value space, where the autoscaler looks, so that it outlives both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from nbray.common.resources import to_units
from nbray.driver.driver import current_core
from nbray.scheduling.labels import parse_selector
from nbray.state.scaling import SCALING as QUERY
from nbray.state.scaling import ScalingState
from nbray.wire.gcs_messages import KvCount, KvPut
from nbray.wire.scaling_messages import BOUNDS, REQUESTED, SCALING, Bounds, Requested
from nbray.wire.strategies import Selectors

_MOST_BUNDLES = 100_000


def request_room(
    num_cpus: int | None,
    bundles: Sequence[Mapping[str, float]] | None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None,
) -> None:
    """See `nbray.autoscaler.sdk.request_resources`."""
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError("num_cpus should be of type int.")
    if num_cpus is not None and num_cpus < 0:
        raise ValueError(f"num_cpus={num_cpus} cannot be negative.")
    given = [to_units(dict(bundle)) for bundle in bundles or ()]
    selectors: list[Selectors] = []
    if bundle_label_selectors is not None:
        if len(bundle_label_selectors) != len(given):
            raise ValueError(
                f"There are {len(bundle_label_selectors)} bundle_label_selectors for "
                f"{len(given)} bundles: give one for each."
            )
        selectors = [(parse_selector(one),) for one in bundle_label_selectors]
    cpus = num_cpus or 0
    if len(given) + cpus > _MOST_BUNDLES:
        raise ValueError(f"At most {_MOST_BUNDLES:,} bundles can be requested.")
    if selectors:
        selectors += [()] * cpus
    given += [to_units({"CPU": 1})] * cpus
    _keep(REQUESTED, msgspec.msgpack.encode(Requested(given, selectors)))


def set_bounds(least: int, most: int, node_type: str = "") -> None:
    """Have so many nodes at least and at most, whatever the cluster's file says.

    Args:
        least: of ``node_type``, by default the first of the file.
        most: of all types together, the head not counted.
        node_type: one of the file's.

    Raises:
        ValueError: there is no autoscaler, or no such type, or ``least`` is more than ``most``.
    """
    found = scaling_now()
    if found is None:
        raise ValueError(
            "this cluster has no autoscaler: it is started with the head, by `nbray start --head "
            "--autoscaling-config=FILE` or `nbray up FILE`"
        )
    if node_type and node_type not in found.bounds:
        raise ValueError(f"{node_type!r} is none of its node types: {', '.join(found.bounds)}")
    if not 0 <= least <= most:
        raise ValueError(f"{least}..{most} is no range")
    _keep(BOUNDS, msgspec.msgpack.encode(Bounds(least, most, node_type)))


def scaling_now() -> ScalingState | None:
    """What the autoscaler said last; None: there is none."""
    return QUERY.read(current_core().peers.gcs_call(QUERY.method, QUERY.body))


def _keep(key: bytes, value: bytes) -> None:
    request = msgspec.msgpack.encode(KvPut(SCALING, key, value))
    msgspec.msgpack.decode(current_core().peers.gcs_call("KvPut", request), type=KvCount)
