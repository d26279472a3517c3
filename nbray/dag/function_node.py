"""A task of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbray.dag.dag_node import DAGNode, Given


class FunctionNode(DAGNode):
    """A task to come.

    Args:
        function: what `nbray.remote` made of the function.
        args: its arguments.
        kwargs: the same, by name.

    Examples:
        >>> node = nbray.remote(abs).bind(-3)
        >>> nbray.get(node.execute())
        3
    """

    def __init__(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _given_options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self._function._options
        return options

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        return self._function.remote(*args, **kwargs)
