"""Handles of actors, and the methods that are called by them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from types import GenericAlias
from typing import Any

import msgspec

from nbray import cloudpickle
from nbray.calls.options import (
    backpressure_code,
    check_call_options,
    exception_classes,
    num_returns_code,
)
from nbray.calls.remote_function import returned
from nbray.calls.signatures import CallCheck
from nbray.common.ids import ActorID
from nbray.common.text import one_line
from nbray.core_worker.task_options import TaskOptions
from nbray.dag.class_node import ClassMethodNode, MethodOutputNode
from nbray.driver.driver import current_core
from nbray.exceptions import ActorHandleNotFoundError
from nbray.object_ref import ObjectRef
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.wire.records import MethodOptions

_BUILT_IN_METHODS = ("__ray_ready__", "__ray_terminate__", "__ray_call__")


_FIELDS: dict[str, Callable[[Any], tuple[str, Any]]] = {
    "concurrency_group": lambda value: ("concurrency_group", value),
    "max_task_retries": lambda value: ("retries", value),
    "num_returns": lambda value: ("num_returns", num_returns_code(value, None)),
    "retry_exceptions": lambda value: ("retry_exceptions", exception_classes(value)),
    "_generator_backpressure_num_objects": lambda value: ("backpressure", backpressure_code(value)),
}
"""What an option of a call becomes: a field of its `TaskOptions`, with its value there."""


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)``.

    Examples:
        >>> @nbray.remote
        ... class Echo:
        ...     def say(self, word):
        ...         return word
        >>> echo = Echo.remote()
        >>> nbray.get(echo.say.options(name="say it").remote("hello"))
        'hello'
    """

    __slots__ = ("_check", "_handle", "_name", "_options", "_task_name")

    def __init__(
        self,
        handle: ActorHandle,
        name: str,
        options: TaskOptions,
        check: CallCheck | None,
        task_name: str,
    ) -> None:
        self._handle = handle
        self._name = name
        self._options = options
        self._check = check
        self._task_name = task_name

    @takes_options(Scope.CALL)
    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options.

        Args:
            options: those of `nbray.method`, and ``name``, what the call is shown as.

        Returns:
            Another `ActorMethod`.

        Raises:
            ValueError: an option is impossible. TypeError: it is unknown, or has the wrong type.
        """
        given = check_call_options(options, Scope.CALL)
        name = given.pop("name", None) or self._task_name
        fields = dict(_FIELDS[option](value) for option, value in given.items())
        changed = dataclasses.replace(self._options, **fields)
        return ActorMethod(self._handle, self._name, changed, self._check, name)

    def _remote(
        self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`remote` with the options of one call; a name that programs for Ray use."""
        chosen = self.options(**options) if options else self
        return chosen.remote(*args, **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """The call as a node of a graph, which is executed later; see `nbray.dag`.

        Args:
            args: the method's arguments, among which may be nodes.
            kwargs: the same, by name.

        Returns:
            The node; of a method with several values, a tuple of a node for each.
        """
        node = ClassMethodNode(self, args, kwargs)
        if (count := self._options.num_returns) > 1:
            return tuple(MethodOutputNode(node, index) for index in range(count))
        return node

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method.

        Args:
            args: the method's arguments; a ref among them stands for its value.
            kwargs: the same, by name.

        Returns:
            The ref of the call's value; a list of refs for several, or the generator of a stream.

        Raises:
            PendingCallsLimitExceeded: the actor has ``max_pending_calls`` calls without a reply.
            TypeError: the arguments do not fit the method, or one cannot be pickled.
            ActorHandleNotFoundError: the handle is of an earlier session.
        """
        if self._check is not None:
            self._check(args, kwargs)
        handle = self._handle
        ref = handle._ref
        if ref is not None and ref._kin.core.reactor.stopped:
            handle._check_session()
        core = current_core()
        if handle._max_pending_calls > 0:
            core.check_room(handle._id, handle._max_pending_calls)
        return returned(
            core.submit_call(handle._id, self._name, self._task_name, args, kwargs, self._options)
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Actor methods cannot be called directly. Instead of running "
            f"'object.{self._name}()', try 'object.{self._name}.remote()'."
        )


class ActorHandle:
    """A reference to an actor. The actor ends when its last handle goes, unless detached.

    Examples:
        >>> @nbray.remote
        ... class Box:
        ...     def __init__(self):
        ...         self.content = None
        ...
        ...     def put(self, content):
        ...         self.content = content
        ...
        ...     def look(self):
        ...         return self.content
        >>> box = Box.remote()

        >>> @nbray.remote
        ... def fill(handle):  # a handle may be passed on
        ...     nbray.get(handle.put.remote("a letter"))
        >>> nbray.get(fill.remote(box))
        >>> nbray.get(box.look.remote())
        'a letter'
    """

    __class_getitem__: Any = classmethod(GenericAlias)  # for annotations: ActorHandle[Counter]

    def __init__(
        self,
        actor_id: bytes,
        class_name: str,
        methods: dict[str, MethodOptions],
        max_task_retries: int,
        max_pending_calls: int,
        ref: ObjectRef | None,
    ) -> None:
        self._id = actor_id
        self._class_name = class_name
        self._methods = methods
        self._max_task_retries = max_task_retries
        self._max_pending_calls = max_pending_calls
        self._ref = ref
        self._known: dict[str, tuple[TaskOptions, CallCheck | None, str]] = {}

    @property
    def _actor_id(self) -> ActorID:
        """The id; a name that programs for Ray use, as is the next."""
        return ActorID(self._id)

    _ray_actor_id = _actor_id

    def __getattr__(self, name: str) -> ActorMethod:
        known = self.__dict__.get("_known", {})
        found = known.get(name)
        if found is None:
            options = self._task_options(name)
            built_in = name in _BUILT_IN_METHODS
            check = None if built_in else CallCheck(self._methods[name].parameters)
            found = known[name] = options, check, f"{self._class_name}.{name}"
        return ActorMethod(self, name, *found)

    def _check_session(self) -> None:
        """Refuse to be used after the session that made it, and in a fork of the process.

        Raises:
            ActorHandleNotFoundError: `shutdown` was called since, or this process is a fork.
        """
        ref = self._ref
        if ref is not None and ref._kin.core.reactor.stopped:
            made = (
                "is of the process that this one is a fork of; call nbray.init(address=...), and "
                "nbray.get_actor if the actor has a name."
                if ref._kin.core.reactor.abandoned
                else "was made before nbray.shutdown(); make a new actor."
            )
            raise ActorHandleNotFoundError(
                "ActorHandle objects are not valid across nbray sessions. The handle of "
                f"{self._class_name} {made}"
            )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._methods]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._id == self._id

    def __hash__(self) -> int:
        return hash(self._id)

    def _task_options(self, name: str) -> TaskOptions:
        methods = self.__dict__.get("_methods", {})
        if name in _BUILT_IN_METHODS:
            method = MethodOptions()
        elif name in methods:
            method = methods[name]
        else:
            raise AttributeError(
                f"'ActorHandle' object has no attribute '{name}' (the actor's class is "
                f"{self.__dict__.get('_class_name')})"
            )
        retries = method.max_task_retries
        return TaskOptions(
            num_returns=method.num_returns,
            retries=self._max_task_retries if retries is None else retries,
            retry_exceptions=(
                cloudpickle.loads(method.retry_exceptions) if method.retry_exceptions else False
            ),
            backpressure=method.backpressure,
            concurrency_group=method.concurrency_group,
            out_of_order=method.out_of_order,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (
            self._id, self._class_name, self._methods, self._max_task_retries,
            self._max_pending_calls, self._ref,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Actor({one_line(self._class_name)}, {self._id.hex()})"


def find_actor(name: str, namespace: str) -> ActorHandle | None:
    """The actor of that name, or None; none that this node has had ended."""
    from nbray.wire.gcs_messages import FoundActor, NamedActor

    core = current_core()
    core.count_soon()
    body = msgspec.msgpack.encode(NamedActor(name, namespace))
    reply = core.peers.gcs_call("FindActor", body)
    found = msgspec.msgpack.decode(reply, type=FoundActor)
    if not found.actor_id:
        return None
    return ActorHandle(
        found.actor_id,
        found.class_name,
        found.methods,
        found.max_task_retries,
        found.max_pending_calls,
        None,
    )
