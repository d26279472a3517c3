"""Several results of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nbray.dag.dag_node import DAGNode, Given, filled


class MultiOutputNode(DAGNode):
    """Several nodes, executed together: their results as a list.

    Args:
        nodes: the nodes.

    Examples:
        >>> from nbray.dag import MultiOutputNode
        >>> absolute = nbray.remote(abs)
        >>> nbray.get(MultiOutputNode([absolute.bind(-1), absolute.bind(-2)]).execute())
        [1, 2]
    """

    def __init__(self, nodes: Sequence[DAGNode]) -> None:
        super().__init__(nodes)

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        return list(filled(self._args, done))
