"""Graphs of calls that are written first and submitted later: ``f.bind(...)``.

A node is a call that has not been made. `DAGNode.execute` makes the calls of all nodes that a
node needs, each once, and passes their refs on, so that a node starts when its inputs are ready.

Names and rules are those of Ray's DAG API, without compiled graphs
(https://docs.ray.io/en/latest/ray-core/ray-dag.html).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self


class _Given:
    """What `DAGNode.execute` was called with."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs

    def whole(self) -> Any:
        if len(self.args) == 1 and not self.kwargs:
            return self.args[0]
        raise ValueError(
            f"The graph was executed with {len(self.args)} arguments and {len(self.kwargs)} by "
            "name, but a node takes its InputNode as one value: execute it with one, or bind its "
            "parts, input[0] or input.name."
        )

    def part(self, key: Any) -> Any:
        if isinstance(key, str) and key in self.kwargs:
            return self.kwargs[key]
        if isinstance(key, int) and (len(self.args) > 1 or self.kwargs):
            return self.args[key]
        return self.whole()[key]


class DAGNode:
    """A call to come. ``args`` and ``kwargs`` may hold nodes, in lists, tuples and dicts too."""

    def __init__(self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> None:
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Make this call and all that it needs.

        Args:
            args: what the graph's `InputNode` stands for.
            kwargs: the same, by name.

        Returns:
            What ``remote`` of the call returns: a ref, or an actor's handle.

        Raises:
            TypeError: the graph has no `InputNode`, and arguments were given.
            ValueError: the arguments are not those that its `InputNode` needs.
        """
        given, done = _Given(args, kwargs), dict[DAGNode, Any]()
        waiting: list[DAGNode] = [self]
        while waiting:
            node = waiting[-1]
            missing = [one for one in node._needs() if one not in done]
            if missing:
                waiting += reversed(missing)
                continue
            waiting.pop()
            if node not in done:
                done[node] = node._make(given, done)
        if (args or kwargs) and not any(isinstance(node, InputNode) for node in done):
            raise TypeError("This graph has no InputNode, so that execute() takes no arguments.")
        return done[self]

    def experimental_compile(self, *_args: Any, **_kwargs: Any) -> Any:
        """Compiled graphs are not offered.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("nbray has no compiled graphs: call execute() instead.")

    def _needs(self) -> Iterator[DAGNode]:
        yield from _nodes_in(self._args)
        yield from _nodes_in(self._kwargs)

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        raise NotImplementedError

    def _arguments(self, done: dict[DAGNode, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return _filled(self._args, done), _filled(self._kwargs, done)


class FunctionNode(DAGNode):
    """A task to come."""

    def __init__(self, function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._function = function

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        return self._function.remote(*args, **kwargs)


class ClassNode(DAGNode):
    """An actor to come, one for each time that the graph is executed."""

    def __init__(self, actor_class: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._actor_class = actor_class

    def __getattr__(self, name: str) -> _UnboundMethod:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        getattr(self._actor_class, name)  # that the class has no such method is told here
        return _UnboundMethod(self, name)

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        return self._actor_class.remote(*args, **kwargs)


class _UnboundMethod:
    def __init__(self, actor: ClassNode, name: str, options: dict[str, Any] | None = None) -> None:
        self.actor = actor
        self._name = name
        self._options = options or {}

    def options(self, **options: Any) -> _UnboundMethod:
        """The same method with other options."""
        return _UnboundMethod(self.actor, self._name, {**self._options, **options})

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """The call as a node."""
        return ClassMethodNode(self, args, kwargs)

    def of(self, handle: Any) -> Any:
        """The method of the actor, which is there now."""
        method = getattr(handle, self._name)
        return method.options(**self._options) if self._options else method


class ClassMethodNode(DAGNode):
    """A call, to come, of an actor, which may be to come as well."""

    def __init__(self, method: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._method = method

    def _needs(self) -> Iterator[DAGNode]:
        if isinstance(self._method, _UnboundMethod):
            yield self._method.actor
        yield from super()._needs()

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        method = self._method
        if isinstance(method, _UnboundMethod):
            method = method.of(done[method.actor])
        return method.remote(*args, **kwargs)


class InputNode(DAGNode):
    """What `DAGNode.execute` is given: ``with InputNode() as x: f.bind(x)``.

    ``x[0]``, ``x["name"]`` and ``x.name`` are parts of it.
    """

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

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        return given


class InputAttributeNode(DAGNode):
    """A part of what `DAGNode.execute` is given."""

    def __init__(self, whole: InputNode, key: int | str) -> None:
        super().__init__((whole,))
        self._key = key

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        return given.part(self._key)


class MultiOutputNode(DAGNode):
    """Several nodes, executed together: their results as a list."""

    def __init__(self, nodes: Sequence[DAGNode]) -> None:
        super().__init__(nodes)

    def _make(self, given: _Given, done: dict[DAGNode, Any]) -> Any:
        return list(_filled(self._args, done))


def _nodes_in(value: Any) -> Iterator[DAGNode]:
    if isinstance(value, DAGNode):
        yield value
    elif type(value) in (list, tuple):
        for one in value:
            yield from _nodes_in(one)
    elif type(value) is dict:
        for one in value.values():
            yield from _nodes_in(one)


def _filled(value: Any, done: dict[DAGNode, Any]) -> Any:
    """``value`` with results in the places of nodes."""
    if isinstance(value, DAGNode):
        result = done[value]
        return result.whole() if isinstance(result, _Given) else result
    if type(value) in (list, tuple):
        return type(value)(_filled(one, done) for one in value)
    if type(value) is dict:
        return {key: _filled(one, done) for key, one in value.items()}
    return value
