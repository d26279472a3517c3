"""What was asked of the labels of a node, as Ray's state API says it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nbray.wire.strategies import LabelTerm, Selectors

_RAYS_OPERATORS = {"in": "LABEL_OPERATOR_IN", "!in": "LABEL_OPERATOR_NOT_IN"}


def label_selector(selectors: Selectors) -> dict[str, str]:
    """The option ``label_selector`` as it was given."""
    return {term.key: _condition(term) for term in (selectors[0] if selectors else ())}


def fallback_strategy(selectors: Selectors) -> dict[str, Any]:
    """The option ``fallback_strategy``, taken apart."""
    return {"options": [{"label_selector": _constraints(terms)} for terms in selectors[1:]]}


def _condition(term: LabelTerm) -> str:
    sign = "!" if term.operator.startswith("!") else ""
    if len(term.values) == 1:
        return f"{sign}{term.values[0]}"
    return f"{sign}in({','.join(term.values)})"


def _constraints(terms: Iterable[LabelTerm]) -> dict[str, Any]:
    return {
        "label_constraints": [
            {
                "label_key": term.key,
                "operator": _RAYS_OPERATORS.get(term.operator, term.operator),
                "label_values": list(term.values),
            }
            for term in terms
        ]
    }
