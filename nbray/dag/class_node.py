"""An actor of a graph, and calls of actors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbray.dag.dag_node import DAGNode, Given, missing


class ClassNode(DAGNode):
    """An actor to come, one for each time that the graph is executed.

    Its calls are made in the order in which they were bound: one that is executed brings those
    before it along, as in Ray.

    Args:
        actor_class: what `nbray.remote` made of the class.
        args: the constructor's arguments.
        kwargs: the same, by name.

    Examples:
        >>> @nbray.remote
        ... class Adder:
        ...     def __init__(self, start):
        ...         self.start = start
        ...
        ...     def add(self, x):
        ...         return self.start + x
        >>> adder = Adder.bind(10)
        >>> nbray.get(adder.add.bind(5).execute())
        15
    """

    def __init__(self, actor_class: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        super().__init__(args, kwargs)
        self._actor_class = actor_class
        self._newest_call: ClassMethodNode | None = None

    def __getattr__(self, name: str) -> _UnboundMethod:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        getattr(self._actor_class, name)  # that the class has no such method is told here
        return _UnboundMethod(self, name)

    def _given_options(self) -> Mapping[str, Any]:
        options: Mapping[str, Any] = self._actor_class._options
        return options

    def _bind(self, method: _UnboundMethod, args: Any, kwargs: Any) -> ClassMethodNode:
        self._newest_call = ClassMethodNode(method, args, kwargs, self._newest_call)
        return self._newest_call

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        return self._actor_class.remote(*args, **kwargs)


class _UnboundMethod:
    def __init__(self, actor: ClassNode, name: str, options: dict[str, Any] | None = None) -> None:
        self.actor = actor
        self._name = name
        self._options = options or {}

    def __getattr__(self, name: str) -> Any:
        raise missing("ClassMethodNode", name)

    def options(self, **options: Any) -> _UnboundMethod:
        """The same method with other options."""
        return _UnboundMethod(self.actor, self._name, {**self._options, **options})

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """The call as a node."""
        return self.actor._bind(self, args, kwargs)

    @property
    def name(self) -> str:
        """The method's."""
        return self._name

    def of(self, handle: Any) -> Any:
        """The method of the actor, which is there now."""
        method = getattr(handle, self._name)
        return method.options(**self._options) if self._options else method


class ClassMethodNode(DAGNode):
    """A call, to come, of an actor, which may be to come as well.

    Args:
        method: the method of an actor.
        args: its arguments.
        kwargs: the same, by name.

    Examples:
        >>> @nbray.remote
        ... class Echo:
        ...     def say(self, word):
        ...         return word
        >>> call = Echo.remote().say.bind("hello")
        >>> nbray.get(call.execute())
        'hello'
    """

    def __init__(
        self,
        method: Any,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        after: ClassMethodNode | None = None,
    ) -> None:
        super().__init__(args, kwargs)
        self._method = method
        self._after = after

    def get_method_name(self) -> str:
        """The name of the method."""
        method = self._method
        return method.name if isinstance(method, _UnboundMethod) else str(method._name)

    def _given_options(self) -> Mapping[str, Any]:
        return self._method._options if isinstance(self._method, _UnboundMethod) else {}

    def _needs(self) -> Iterator[DAGNode]:
        if isinstance(self._method, _UnboundMethod):
            yield self._method.actor
        if self._after is not None:
            yield self._after
        yield from super()._needs()

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        args, kwargs = self._arguments(done)
        method = self._method
        if isinstance(method, _UnboundMethod):
            method = method.of(done[method.actor])
        return method.remote(*args, **kwargs)


class MethodOutputNode(ClassMethodNode):
    """One of the values of a call that gives several.

    Args:
        call: the call.
        index: which value.
    """

    def __init__(self, call: ClassMethodNode, index: int) -> None:
        super().__init__(call._method, (call, index), {})
        self._index = index

    def get_method_name(self) -> str:
        """Ray's name of such a node."""
        return f"return_idx_{self._index}"

    def _make(self, given: Given, done: dict[DAGNode, Any]) -> Any:
        return done[self._args[0]][self._index]
