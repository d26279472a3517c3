"""How often a thousand nodes may say something, so that one GCS can listen to all."""

from __future__ import annotations

_NODES_PER_PERIOD_S = 150
_NODES_PER_SOONEST_S = 1000
_NODES_PER_WAVE_S = 250
_SOONEST_S = 0.1
_LONGEST_WAVE_S = 0.8
_NEAR_S = 1.0


def report_period_s(nodes: int, configured_s: float) -> float:
    """How often a node reports of which nothing changed: all together 150 times a second."""
    return max(configured_s, nodes / _NODES_PER_PERIOD_S)


def near_report_period_s(configured_s: float) -> float:
    """The same of one whose end the GCS sees without a report: half as often, or each second."""
    return max(configured_s, min(2 * configured_s, _NEAR_S))


def soonest_report_s(nodes: int) -> float:
    """How soon after a report a node may make the next one, when something changed."""
    return max(_SOONEST_S, nodes / _NODES_PER_SOONEST_S)


def wave_s(nodes: int) -> float:
    """How long news of the node table are gathered before all raylets are told again."""
    return min(_LONGEST_WAVE_S, nodes / _NODES_PER_WAVE_S)
