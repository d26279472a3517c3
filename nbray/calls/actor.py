"""``@nbray.remote`` classes and the handles of their actors."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any

import msgspec

from nbray import cloudpickle
from nbray.calls.actor_methods import Blueprint, in_or_out_of_order
from nbray.calls.actor_methods import method as method
from nbray.calls.function_pickles import KeptPickle
from nbray.calls.grouping import group_strategy
from nbray.calls.options import (
    actor_units,
    backpressure_code,
    check_call_options,
    check_options,
    exception_classes,
    num_returns_code,
    option,
    selector_of,
    strategy_of,
)
from nbray.calls.remote_function import returned
from nbray.calls.signatures import CallCheck
from nbray.common.ids import ActorID, handle_id
from nbray.common.text import as_name, check_namespace, one_line
from nbray.core_worker.context import current_origin
from nbray.core_worker.current import find_core
from nbray.core_worker.task_options import TaskOptions
from nbray.dag import ClassMethodNode, ClassNode
from nbray.driver.driver import current_core
from nbray.exceptions import ActorAlreadyExistsError, ActorHandleNotFoundError, ExitActor
from nbray.object_ref import ObjectRef
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.wire.gcs_messages import FoundActor, NamedActor
from nbray.wire.records import ActorOptions, ActorSpec, MethodOptions


def exit_actor() -> None:
    """End the actor in whose process this is called, for good; calls that wait fail.

    Calls that run are answered first, but for that which calls this. It may be called in any thread
    and coroutine, and in the constructor; what was registered with `atexit` runs.

    Raises:
        TypeError: it is not called in an actor.
    """
    core = find_core()
    if core is None or core.actor is None:
        raise TypeError(
            "exit_actor API is called on a non-actor worker. Call it in a method of an actor to "
            "end that actor."
        )
    core.on_exit_actor()
    raise ExitActor


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class."""


class ActorClass:
    """A class whose instances are actors: ``Class.remote(...)``."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = check_options(options, actor=True)
        self._pickle = KeptPickle(cls)
        self._blueprint: Blueprint | None = None
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self.__name__}()', "
            f"use '{self.__name__}.remote()'."
        )

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(self._cls, name):
            return getattr(self._cls, name)
        raise AttributeError(
            f"'ActorClass({self.__dict__.get('__name__')})' object has no attribute '{name}'"
        )

    def __mro_entries__(self, _bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceException(
            f"A class was derived from the actor class '{self.__name__}'. Inheriting from actor "
            "classes is not currently supported. Derive from a plain class, and make the derived "
            "class an actor class (with @nbray.remote)."
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._cls)})

    def __repr__(self) -> str:
        return f"ActorClass({one_line(self.__name__)})"

    @takes_options(Scope.ACTOR)
    def options(self, **options: Any) -> ActorClass:
        """The same class with other options.

        Raises:
            ValueError, TypeError: an option is unknown or impossible.
        """
        if options.get("concurrency_groups") is not None:
            raise ValueError("Setting 'concurrency_groups' is not supported in '.options()'.")
        other = ActorClass(self._cls, {**self._options, **options})
        _check_get_if_exists(other._options)
        other._pickle, other._blueprint = self._pickle, self._known()
        return other

    def _known(self) -> Blueprint:
        if self._blueprint is None:
            self._blueprint = Blueprint(self._cls)
        return self._blueprint

    def _remote(
        self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> ActorHandle:
        """`remote` with the options of one actor; a name that programs for Ray use."""
        actor_class = self.options(**options) if options else self
        return actor_class.remote(*args, **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> ClassNode:
        """The actor as a node of a graph, which is executed later; see `nbray.dag`."""
        return ClassNode(self, args, kwargs)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; its handle comes back at once.

        Raises:
            ValueError: the name is taken, or an option is impossible.
            TypeError: the arguments do not fit the constructor; the class or one of them cannot be
                pickled.
        """
        known = self._known()
        known.check(args, kwargs)
        core = current_core()
        options = self._options
        resources, placing = actor_units(options)
        group = group_strategy(options, placing or resources, f"the actor {self.__name__}", True)
        name, namespace = _names(options, core.job.namespace)
        if option(options, "get_if_exists"):
            found = find_actor(name, namespace)
            if found is not None:
                return found
        methods = in_or_out_of_order(known, options)
        groups = option(options, "concurrency_groups") or {}
        for used in methods.values():
            if used.concurrency_group and used.concurrency_group not in groups:
                raise ValueError(
                    f"Concurrency group {used.concurrency_group!r} is not defined; "
                    f"the groups of {self.__name__} are {sorted(groups)}."
                )
        actor_id = os.urandom(12) + core.job.job_id
        pickled = self._pickle.get()
        (payload, dependencies, contained), held = core.actor_arguments(
            args, kwargs, pickled.captured
        )
        lifetime = option(options, "lifetime")
        detached = core.job.detached if lifetime is None else lifetime == "detached"
        ref = None if detached else core.actor_ref(actor_id, held)
        spec = ActorSpec(
            actor_id, core.job.job_id, as_name(self.__name__), actor_id, pickled.data, payload,
            dependencies, contained, methods,
            ActorOptions(
                resources, name, namespace, detached,
                option(options, "max_restarts"), option(options, "max_task_retries"),
                option(options, "max_concurrency"),
                known.is_async, groups,
                option(options, "max_pending_calls"),
                core.runtime_envs.text_for(option(options, "runtime_env")),
                group or strategy_of(options), selector_of(options), placing,
            ),
            core.address, current_origin(),
        )  # fmt: skip
        while taken := core.actors.create(spec):  # by another that asked at this moment
            found = find_actor(name, namespace) if option(options, "get_if_exists") else None
            if found is None and option(options, "get_if_exists"):
                continue  # it has ended since
            core.references.let_go_handles(handle_id(actor_id), held)
            if found is None:
                raise ActorAlreadyExistsError(taken)
            return found
        return ActorHandle(
            actor_id, self.__name__, methods, spec.options.max_task_retries,
            spec.options.max_pending_calls, ref,
        )  # fmt: skip


_BUILT_IN_METHODS = ("__ray_ready__", "__ray_terminate__", "__ray_call__")


def _check_get_if_exists(options: Mapping[str, Any]) -> None:
    if option(options, "get_if_exists") and not options.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists`.")


def _names(options: Mapping[str, Any], own_namespace: str) -> tuple[str, str]:
    """The actor's name, empty for none, and its namespace.

    Raises:
        ValueError: one of them is empty, or a name is missing.
    """
    _check_get_if_exists(options)
    if options.get("name") == "":
        raise ValueError("Actor name cannot be an empty string.")
    return options.get("name") or "", check_namespace(options.get("namespace")) or own_namespace


_FIELDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "concurrency_group": ("concurrency_group", str),
    "max_task_retries": ("retries", int),
    "num_returns": ("num_returns", lambda value: num_returns_code(value, None)),
    "retry_exceptions": ("retry_exceptions", exception_classes),
    "_generator_backpressure_num_objects": ("backpressure", backpressure_code),
}
"""What an option of a call becomes: the field of its `TaskOptions`, and its value there."""


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)``."""

    __slots__ = ("_check", "_handle", "_name", "_options", "_task_name")

    def __init__(
        self,
        handle: ActorHandle,
        name: str,
        options: TaskOptions,
        check: CallCheck | None,
        task_name: str = "",
    ) -> None:
        self._handle = handle
        self._name = name
        self._options = options
        self._check = check
        self._task_name = task_name or f"{handle._class_name}.{name}"

    @takes_options(Scope.CALL)
    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options: those of `nbray.method`, and ``name``.

        Raises:
            ValueError: an option is impossible. TypeError: it is unknown, or has the wrong type.
        """
        given = check_call_options(options, Scope.CALL)
        name = given.pop("name", None) or self._task_name
        fields = {_FIELDS[option][0]: _FIELDS[option][1](value) for option, value in given.items()}
        changed = dataclasses.replace(self._options, **fields)
        return ActorMethod(self._handle, self._name, changed, self._check, name)

    def _remote(
        self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`remote` with the options of one call; a name that programs for Ray use."""
        chosen = self.options(**options) if options else self
        return chosen.remote(*args, **(kwargs or {}))

    def bind(self, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """The call as a node of a graph, which is executed later; see `nbray.dag`."""
        return ClassMethodNode(self, args, kwargs)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns its ref, a list of refs, or the generator of a stream.

        Raises:
            PendingCallsLimitExceeded: the actor has ``max_pending_calls`` calls without a reply.
            TypeError: the arguments do not fit the method, or one cannot be pickled.
            ActorHandleNotFoundError: the handle is of an earlier session.
        """
        if self._check is not None:
            self._check(args, kwargs)
        handle = self._handle
        handle._check_session()
        core = current_core()
        if handle._max_pending_calls > 0:
            core.actor_calls.check_room(handle._id, handle._max_pending_calls)
        return returned(
            core.submit_call(handle._id, self._name, self._task_name, args, kwargs, self._options)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Actor methods cannot be called directly. Instead of running "
            f"'object.{self._name}()', try 'object.{self._name}.remote()'."
        )


class ActorHandle:
    """A reference to an actor. The actor ends when its last handle goes, unless detached."""

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
        self._known: dict[str, tuple[TaskOptions, CallCheck | None]] = {}

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
            found = known[name] = options, check
        return ActorMethod(self, name, *found)

    def _check_session(self) -> None:
        """Refuse to be used after the session that made it.

        Raises:
            ActorHandleNotFoundError: `shutdown` was called since.
        """
        ref = self._ref
        if ref is not None and ref._core.reactor.stopped:
            raise ActorHandleNotFoundError(
                "ActorHandle objects are not valid across nbray sessions. The handle of "
                f"{self._class_name} was made before nbray.shutdown(); make a new actor."
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
    core = current_core()
    core.references.count_soon()
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


ActorProxy = ActorHandle  # Ray's name of a handle in annotations
