"""What programs ask of the autoscaler; Ray's ``ray.autoscaler.sdk``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from nbray.common.resources import to_units
from nbray.driver.driver import current_core
from nbray.scheduling.labels import parse_selector
from nbray.wire.gcs_messages import KvCount, KvPut
from nbray.wire.scaling_messages import REQUESTED, SCALING, Requested
from nbray.wire.strategies import Selectors

__all__ = ["request_resources"]

_MOST_BUNDLES = 100_000


def request_resources(
    num_cpus: int | None = None,
    bundles: Sequence[Mapping[str, float]] | None = None,
    bundle_label_selectors: Sequence[Mapping[str, str]] | None = None,
) -> None:
    """Have room at once, without work that waits for it, until the next call.

    The cluster is scaled so that all of it would fit, used or not; what it has already counts.
    Nodes that are needed for it do not leave. ``request_resources()`` takes the request back.

    Args:
        num_cpus: so many bundles of one CPU.
        bundles: resources by name, one mapping for each bundle.
        bundle_label_selectors: conditions on node labels, one mapping for each bundle.

    Raises:
        ValueError: an amount cannot be, or there are not as many selectors as bundles.
        TypeError: an argument is of another kind.

    Examples:
        >>> from nbray.autoscaler.sdk import request_resources
        >>> request_resources(num_cpus=2)
        >>> request_resources(bundles=[{"CPU": 2}, {"GPU": 1}])
        >>> request_resources()
    """
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
    given += [{"CPU": 10_000}] * cpus
    request = KvPut(SCALING, REQUESTED, msgspec.msgpack.encode(Requested(given, selectors)))
    reply = current_core().peers.gcs_call("KvPut", msgspec.msgpack.encode(request))
    msgspec.msgpack.decode(reply, type=KvCount)
