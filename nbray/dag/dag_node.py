"""A node of a graph, and how a graph is executed."""

from __future__ import annotations

import copy
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


class Given:
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


def missing(kind: str, name: str) -> AttributeError:
    """The error of what a node has not, with what is meant if calls have it."""
    instead = {
        "remote": "; to make the calls of a graph, use .execute()",
        "bind": "; a node is bound already, and can be an argument of another one",
    }
    return AttributeError(f"{kind!r} object has no attribute {name!r}{instead.get(name, '')}")


class DAGNode:
    """A call to come. ``args`` and ``kwargs`` may hold nodes, in lists, tuples and dicts too.

    Args:
        args: arguments of the call, among which may be nodes.
        kwargs: the same, by name.

    Examples:
        >>> @nbray.remote
        ... def add(a, b):
        ...     return a + b
        >>> node = add.bind(add.bind(1, 2), 3)
        >>> nbray.get(node.execute())
        6
    """

    is_input = False

    def __init__(self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> None:
        self._args = tuple(args)
        self._kwargs = dict(kwargs or {})
        self._uuid = ""

    def __getattr__(self, name: str) -> Any:
        raise missing(type(self).__name__, name)

    def get_args(self) -> tuple[Any, ...]:
        """The arguments that were bound."""
        return self._args

    def get_kwargs(self) -> dict[str, Any]:
        """Those that were bound by name."""
        return dict(self._kwargs)

    def get_options(self) -> dict[str, Any]:
        """The options of the call that were given."""
        return dict(self._given_options())

    def get_stable_uuid(self) -> str:
        """An id that nodes which `apply_recursive` puts in its place have, too."""
        self._uuid = self._uuid or uuid.uuid4().hex
        return self._uuid

    def apply_recursive(self, fn: Callable[[DAGNode], Any]) -> Any:
        """Have every node of the graph looked at or replaced, those first that others need.

        Args:
            fn: is given each node once, with what it gave for those that the node needs in their
                places.

        Returns:
            What it gave for this node.
        """
        done = dict[DAGNode, Any]()
        for node in self._in_order():
            changed = node._with_nodes(done)
            done[node] = fn(changed)
        return done[self]

    def _given_options(self) -> Mapping[str, Any]:
        return {}

    def _in_order(self) -> Iterator[DAGNode]:
        """This node and all that it needs, each once, behind those that it needs itself."""
        seen, waiting = set[DAGNode](), [self]
        while waiting:
            node = waiting[-1]
            missing = [one for one in node._needs() if one not in seen]
            if missing:
                waiting += reversed(missing)
                continue
            waiting.pop()
            if node not in seen:
                seen.add(node)
                yield node

    def _with_nodes(self, done: Mapping[DAGNode, Any]) -> DAGNode:
        """This node, or a copy of it if one that it needs was replaced."""
        if all(done[node] is node for node in self._needs()):
            return self
        self.get_stable_uuid()
        other = copy.copy(self)
        other._args, other._kwargs = filled(self._args, done), filled(self._kwargs, done)
        return other

    def execute(self, /, *args: Any, _ray_cache_refs: bool = False, **kwargs: Any) -> Any:
        """Make this call and all that it needs.

        Args:
            args: what the graph's `InputNode` stands for.
            _ray_cache_refs: has no effect.
            kwargs: the same, by name.

        Returns:
            What ``remote`` of the call returns: a ref, or an actor's handle.

        Raises:
            TypeError: the graph has no `InputNode`, and arguments were given.
            ValueError: the arguments are not those that its `InputNode` needs.
        """
        given, done = Given(args, kwargs), dict[DAGNode, Any]()
        for node in self._in_order():
            done[node] = node._make(given, done)
        if (args or kwargs) and not any(node.is_input for node in done):
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

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        raise NotImplementedError

    def _arguments(self, done: dict[DAGNode, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return filled(self._args, done), filled(self._kwargs, done)


def _nodes_in(value: Any) -> Iterator[DAGNode]:
    if isinstance(value, DAGNode):
        yield value
    elif type(value) in (list, tuple):
        for one in value:
            yield from _nodes_in(one)
    elif type(value) is dict:
        for one in value.values():
            yield from _nodes_in(one)


def filled(value: Any, done: Mapping[DAGNode, Any]) -> Any:
    """``value`` with results in the places of nodes."""
    if isinstance(value, DAGNode):
        result = done[value]
        return result.whole() if isinstance(result, Given) else result
    if type(value) in (list, tuple):
        return type(value)(filled(one, done) for one in value)
    if type(value) is dict:
        return {key: filled(one, done) for key, one in value.items()}
    return value
