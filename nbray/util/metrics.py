"""Metrics of the user's program: counters, gauges and histograms, in tasks, actors and drivers.

They appear at the dashboard's ``/metrics`` as Prometheus reads them, their names with ``nbray_`` in
front. Counters and histograms are added up on each node; a gauge has a value for each process,
which ends with it.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import Any

from nbray.common.text import check_text, plain
from nbray.core_worker.current import find_core
from nbray.core_worker.tell.metrics import recorded

__all__ = ["Counter", "Gauge", "Histogram", "Metric"]

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,999}")


def _check_number(value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"value must be int or float, got {type(value)}.")
    try:
        float(value)
    except OverflowError as error:
        raise ValueError(f"value does not fit into a float: {error}.") from None


def _check_tag_value(value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"Tag values must be str, got {type(value)}.")
    if value:
        check_text("The value of a tag", value)


class Metric:
    """What the three kinds share.

    Args:
        name: letters, digits, "_" and ":".
        description: shown as its help.
        tag_keys: the names of its tags.

    Raises:
        ValueError: the name is empty, or a text too long. TypeError: ``tag_keys`` is no tuple.

    Examples:
        >>> from nbray.util.metrics import Gauge, Metric
        >>> depth = Gauge("depth", tag_keys=("queue",)).set_default_tags({"queue": "in"})
        >>> isinstance(depth, Metric), depth.info["default_tags"]
        (True, {'queue': 'in'})
    """

    _kind = ""

    def __init__(
        self, name: str, description: str = "", tag_keys: tuple[str, ...] | None = None
    ) -> None:
        if len(name) == 0:
            raise ValueError("Empty name is not allowed. Please provide a metric name.")
        if description != "":
            description = check_text("The description of a metric", description)
        self._discard = _NAME.fullmatch(name) is None
        if self._discard:
            warnings.warn(
                f"Invalid metric name: {name}. Metric will be discarded and data will not be "
                "collected or published. Metric names can only contain letters, numbers, _, "
                "and :. Metric names cannot start with numbers.",
                stacklevel=3,
            )
        self._name = plain(name)
        self._description = description
        self._tag_keys = tag_keys or ()
        self._default_tags: dict[str, str] = {}
        self._boundaries: list[float] = []
        if not isinstance(self._tag_keys, tuple):
            raise TypeError(f"tag_keys should be a tuple type, got: {type(self._tag_keys)}")
        for key in self._tag_keys:
            if not isinstance(key, str):
                raise TypeError(f"Tag keys must be str, got {type(key)}.")
            check_text("The key of a tag", key)

    def set_default_tags(self, default_tags: dict[str, str]) -> Metric:
        """Values for tags that a record does not name.

        Args:
            default_tags: texts by their keys.

        Returns:
            The metric.

        Raises:
            ValueError: a tag is not one of ``tag_keys``. TypeError: a value is not text.
        """
        for key, value in default_tags.items():
            if key not in self._tag_keys:
                raise ValueError(f"Unrecognized tag key {key}.")
            _check_tag_value(value)
        self._default_tags = default_tags
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys and default tags."""
        return {
            "name": self._name,
            "description": self._description,
            "tag_keys": self._tag_keys,
            "default_tags": self._default_tags,
        }

    def _record(self, value: float | None, tags: dict[str, str] | None) -> None:
        if value is not None:
            _check_number(value)
        for text in (tags or {}).values():
            _check_tag_value(text)
        all_tags = {**self._default_tags, **(tags or {})}
        missing = [key for key in self._tag_keys if not all_tags.get(key)]
        if missing:
            raise ValueError(f"Missing value for tag key(s): {','.join(missing)}.")
        if self._discard:
            return
        used = {plain(key): plain(all_tags[key]) for key in self._tag_keys}
        number = None if value is None else float(value)
        recorded.record(
            find_core(), self._kind, self._name, self._description, used, number, self._boundaries
        )


class Counter(Metric):
    """A number that only grows.

    Args:
        name: letters, digits, "_" and ":"; ``_total`` is added where it is shown.
        description: shown as its help.
        tag_keys: the names of its tags; each record has a value for every one.

    Examples:
        >>> from nbray.util.metrics import Counter
        >>> requests = Counter("requests", description="requests served", tag_keys=("route",))
        >>> requests.inc(tags={"route": "/"})
    """

    _kind = "counter"

    def inc(self, value: float = 1.0, tags: dict[str, str] | None = None) -> None:
        """Add ``value``.

        Args:
            value: more than 0.
            tags: a text for each of ``tag_keys`` that has no default.

        Raises:
            ValueError: ``value`` is not positive, or a tag has no value.
            TypeError: ``value`` is no number, or a tag's value no text.
        """
        _check_number(value)
        if value <= 0:
            raise ValueError(f"value must be >0, got {value}")
        self._record(value, tags)


class Gauge(Metric):
    """A number that goes up and down.

    Args:
        name: as for `Counter`.
        description: as for `Counter`.
        tag_keys: as for `Counter`.

    Examples:
        >>> from nbray.util.metrics import Gauge
        >>> temperature = Gauge("temperature", description="degrees")
        >>> temperature.set(21.5)
        >>> temperature.set(None)
    """

    _kind = "gauge"

    def set(self, value: float | None, tags: dict[str, str] | None = None) -> None:
        """Set it; None takes the value away. Raises like `Counter.inc`, for tags and types.

        Args:
            value: the number; None for no value.
            tags: as for `Counter.inc`.
        """
        self._record(value, tags)


class Histogram(Metric):
    """How often values fell between boundaries.

    Args:
        name: as for `Counter`.
        description: as for `Counter`.
        boundaries: the upper bounds of all buckets but the last, positive.
        tag_keys: as for `Counter`.

    Raises:
        ValueError: there are no boundaries, or one is not positive.

    Examples:
        >>> from nbray.util.metrics import Histogram
        >>> latency = Histogram("latency_s", boundaries=[0.01, 0.1, 1.0])
        >>> latency.observe(0.05)
        >>> latency.info["boundaries"]
        [0.01, 0.1, 1.0]
    """

    _kind = "histogram"

    def __init__(
        self, name: str, description: str = "", boundaries: list[float] | None = None,
        tag_keys: tuple[str, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name, description, tag_keys)
        if boundaries is None or len(boundaries) == 0:
            raise ValueError(
                "boundaries argument should be provided when using the Histogram class. "
                'e.g., Histogram("name", boundaries=[1.0, 2.0])'
            )
        for index, bound in enumerate(boundaries):
            _check_number(bound)
            if not bound > 0 or math.isinf(bound):
                raise ValueError(
                    f"Invalid `boundaries` argument at index {index}, {boundaries}. "
                    "Use positive values for the arguments."
                )
        self._boundaries = sorted({float(bound) for bound in boundaries})

    def observe(self, value: float, tags: dict[str, str] | None = None) -> None:
        """Count ``value`` in its bucket. Raises like `Counter.inc`, for tags and types.

        Args:
            value: what was measured.
            tags: as for `Counter.inc`.
        """
        _check_number(value)
        self._record(value, tags)

    @property
    def info(self) -> dict[str, Any]:
        """Name, description, tag keys, default tags and boundaries."""
        return {**super().info, "boundaries": self._boundaries}
