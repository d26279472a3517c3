"""What a graph is executed with."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from nbray.dag.dag_node import DAGNode, Given


class InputNode(DAGNode):
    """What `DAGNode.execute` is given: ``with InputNode() as x: f.bind(x)``.

    ``x[0]``, ``x["name"]`` and ``x.name`` are parts of it.

    Examples:
        >>> from nbray.dag import InputNode
        >>> with InputNode() as x:
        ...     graph = nbray.remote(abs).bind(x)
        >>> nbray.get([graph.execute(-1), graph.execute(2)])
        [1, 2]
    """

    is_input = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __getitem__(self, key: int | str) -> InputAttributeNode:
        return InputAttributeNode(self, key)

    def __getattr__(self, name: str) -> InputAttributeNode:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return InputAttributeNode(self, name)

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        return given


class InputAttributeNode(DAGNode):
    """A part of what `DAGNode.execute` is given.

    Args:
        whole: what the graph is executed with.
        key: which part of it: a number, or a name.

    Examples:
        >>> from nbray.dag import InputNode
        >>> with InputNode() as given:
        ...     graph = nbray.remote(pow).bind(given[0], given.power)
        >>> nbray.get(graph.execute(2, power=3))
        8
    """

    def __init__(self, whole: InputNode, key: int | str) -> None:
        super().__init__((whole,))
        self._key = key

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        return given.part(self._key)
