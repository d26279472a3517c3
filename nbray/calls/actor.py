"""``@nbray.remote`` classes, and how their actors come and go."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from nbray.calls.actor_methods import Blueprint, in_or_out_of_order
from nbray.calls.actor_methods import method as method
from nbray.calls.function_pickles import KeptPickle
from nbray.calls.grouping import group_strategy
from nbray.calls.handles import ActorHandle, find_actor
from nbray.calls.options import (
    actor_units,
    check_options,
    option,
    selector_of,
    strategy_of,
)
from nbray.common.ids import handle_id
from nbray.common.text import as_name, check_namespace, one_line
from nbray.core_worker.context import current_origin
from nbray.core_worker.current import find_core
from nbray.dag import ClassNode
from nbray.driver.driver import current_core
from nbray.exceptions import ActorAlreadyExistsError, ExitActor
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.wire.records import ActorOptions, ActorSpec


def exit_actor() -> None:
    """End the actor in whose process this is called, for good; calls that wait fail.

    Calls that run are answered first, but for that which calls this. It may be called in any thread
    and coroutine, and in the constructor; what was registered with `atexit` runs.

    Raises:
        TypeError: it is not called in an actor.

    Examples:
        >>> @nbray.remote
        ... class Leaving:
        ...     def leave(self):
        ...         nbray.actor.exit_actor()
        >>> try:
        ...     nbray.get(Leaving.remote().leave.remote())
        ... except nbray.exceptions.ActorDiedError as error:
        ...     print("exit_actor" in str(error))
        True
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
    """A class was derived from an actor class.

    Examples:
        >>> Base = nbray.remote(type("Base", (), {}))
        >>> try:
        ...     class Derived(Base): ...
        ... except nbray.actor.ActorClassInheritanceException:
        ...     print("derive from the plain class")
        derive from the plain class
    """


class ActorClass:
    """A class whose instances are actors: ``Class.remote(...)``.

    Examples:
        >>> @nbray.remote
        ... class Greeter:
        ...     def greet(self, name):
        ...         return f"Hello {name}"
        >>> greeter = Greeter.options(max_restarts=2, max_task_retries=-1).remote()
        >>> nbray.get(greeter.greet.remote("Ada"))
        'Hello Ada'
    """

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = check_options(options, actor=True)
        self._pickle = KeptPickle(cls)
        self._blueprint: Blueprint | None = None
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
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

    @property
    def __ray_actor_class__(self) -> type:
        """The class itself; a name that libraries for Ray use."""
        return self._cls

    @property
    def __ray_metadata__(self) -> SimpleNamespace:
        """What libraries for Ray read of it."""
        return SimpleNamespace(modified_class=self._cls, class_name=self.__name__)

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

        Args:
            options: as for `nbray.remote`; each replaces the one that the class has.

        Returns:
            Another `ActorClass`.

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

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassNode:
        """The actor as a node of a graph, which is executed later; see `nbray.dag`.

        Args:
            args: the constructor's arguments, among which may be nodes.
            kwargs: the same, by name.

        Returns:
            The node.
        """
        return ClassNode(self, args, kwargs)

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; its handle comes back at once.

        Args:
            args: the constructor's arguments; a ref among them stands for its value.
            kwargs: the same, by name.

        Returns:
            The handle. The actor ends when the last one has gone, unless it is detached.

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
            actor_id, core.job.job_id, as_name(self.__name__), pickled.data, payload,
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
            core.counting.let_go_handles(handle_id(actor_id), held)
            if found is None:
                raise ActorAlreadyExistsError(taken)
            return found
        return ActorHandle(
            actor_id, self.__name__, methods, spec.options.max_task_retries,
            spec.options.max_pending_calls, ref,
        )  # fmt: skip


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
