"""What programs ask of the autoscaler; Ray's ``ray.autoscaler.sdk``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbray.driver import scaling

__all__ = ["request_resources"]


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
    scaling.request_room(num_cpus, bundles, bundle_label_selectors)
