"""``@nbray.remote`` classes and the handles of their actors."""

from __future__ import annotations

import dataclasses
import inspect
import os
from typing import Any

import cloudpickle
import msgspec

from nbray.core_worker.context import current_origin, running
from nbray.core_worker.task_options import TaskOptions
from nbray.driver import current_core
from nbray.exceptions import ExitActor
from nbray.grouping import group_strategy
from nbray.object_ref import ObjectRef
from nbray.options import (
    check_options,
    exception_classes,
    num_returns_code,
    option,
    resource_units,
    selector_of,
    strategy_of,
)
from nbray.remote_function import returned
from nbray.util.function_pickles import KeptPickle
from nbray.wire.gcs_messages import FoundActor, NamedActor
from nbray.wire.messages import ActorOptions, ActorSpec, MethodOptions


def method(
    *,
    num_returns: int | str | None = None,
    concurrency_group: str | None = None,
    max_task_retries: int | None = None,
    retry_exceptions: bool | list[type[BaseException]] | None = None,
    _generator_backpressure_num_objects: int | None = None,
) -> Any:
    """Options of one method of an actor class.

    Args:
        num_returns: how many values it returns; "streaming" is the default of generators.
        concurrency_group: one of the class's ``concurrency_groups``.
        max_task_retries: repeats of its calls after a crash; the actor's by default.
        retry_exceptions: repeat it after any exception, or after these, too.
    """

    def mark(function: Any) -> Any:
        function.__nbray_method__ = MethodOptions(
            num_returns_code(num_returns, function),
            max_task_retries,
            cloudpickle.dumps(exception_classes(retry_exceptions)) if retry_exceptions else b"",
            concurrency_group or "",
            _generator_backpressure_num_objects or 0,
        )
        return function

    return mark


def exit_actor() -> None:
    """End the actor whose method calls this, for good; calls that wait fail.

    Raises:
        TypeError: it is not called in an actor.
    """
    task = running.get()
    if task is None or not task.actor_id:
        raise TypeError("exit_actor called on a non-actor worker.")
    raise ExitActor


class ActorClass:
    """A class whose instances are actors: ``Class.remote(...)``."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = check_options(options, actor=True)
        self._pickle = KeptPickle(cls)
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            f"Actors cannot be instantiated directly. Instead of '{self.__name__}()', "
            f"use '{self.__name__}.remote()'."
        )

    def options(self, **options: Any) -> ActorClass:
        """The same class with other options."""
        other = ActorClass(self._cls, {**self._options, **options})
        other._pickle = self._pickle
        return other

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle:
        """Create an actor; its handle comes back at once.

        Raises:
            ValueError: the name is taken, or an option is impossible.
            TypeError: the class or an argument cannot be pickled.
        """
        core = current_core()
        options = self._options
        resources = resource_units(options, 0)
        group = group_strategy(options, resources, f"the actor {self.__name__}")
        name = option(options, "name") or ""
        namespace = option(options, "namespace") or core.job.namespace
        if option(options, "get_if_exists") and name:
            found = find_actor(name, namespace)
            if found is not None:
                return found
        if options.get("lifetime") not in (None, "detached", "non_detached"):
            raise ValueError("lifetime must be 'detached', 'non_detached' or None.")
        members = inspect.getmembers(self._cls, callable)
        methods = {name: _method_options(f) for name, f in members if _is_method(name)}
        groups = option(options, "concurrency_groups") or {}
        for used in methods.values():
            if used.concurrency_group and used.concurrency_group not in groups:
                raise ValueError(
                    f"Concurrency group {used.concurrency_group!r} is not defined; "
                    f"the groups of {self.__name__} are {sorted(groups)}."
                )
        actor_id = os.urandom(12) + core.job.job_id
        payload, dependencies, contained = core.actor_arguments(args, kwargs)
        detached = options.get("lifetime") == "detached"
        held = [d.object_id for d in dependencies] + [ref.object_id for ref in contained]
        ref = None if detached else core.actor_ref(actor_id, held)
        spec = ActorSpec(
            actor_id, core.job.job_id, self.__name__, actor_id, self._pickle.get()[1], payload,
            dependencies, contained, methods,
            ActorOptions(
                resources, name, namespace, detached,
                option(options, "max_restarts"), option(options, "max_task_retries"),
                option(options, "max_concurrency"),
                any(_is_async(f) for _, f in members), groups,
                option(options, "max_pending_calls"),
                core.runtime_envs.text_for(option(options, "runtime_env")),
                group or strategy_of(options), selector_of(options),
            ),
            core.address, current_origin(),
        )  # fmt: skip
        core.actor_calls.create(spec, wait=bool(name))
        return ActorHandle(
            actor_id, self.__name__, methods, spec.options.max_task_retries,
            spec.options.max_pending_calls, ref,
        )  # fmt: skip


_BUILT_IN_METHODS = ("__ray_ready__", "__ray_terminate__", "__ray_call__")


def _is_method(name: str) -> bool:
    return not name.startswith("__") or name in ("__call__", "__len__", "__getitem__")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _method_options(function: Any) -> MethodOptions:
    given: MethodOptions | None = getattr(function, "__nbray_method__", None)
    return given or MethodOptions(num_returns_code(None, function))


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)``."""

    __slots__ = ("_handle", "_name", "_options", "_task_name")

    def __init__(
        self, handle: ActorHandle, name: str, options: TaskOptions, task_name: str = ""
    ) -> None:
        self._handle = handle
        self._name = name
        self._options = options
        self._task_name = task_name or f"{handle._class_name}.{name}"

    def options(
        self,
        *,
        num_returns: int | str | None = None,
        name: str | None = None,
        concurrency_group: str | None = None,
        max_task_retries: int | None = None,
        retry_exceptions: bool | list[type[BaseException]] | None = None,
        _generator_backpressure_num_objects: int | None = None,
    ) -> ActorMethod:
        """The same method with other options; see `nbray.method`."""
        given: dict[str, Any] = {}
        if num_returns is not None:
            given["num_returns"] = num_returns_code(num_returns, None)
        if concurrency_group is not None:
            given["concurrency_group"] = concurrency_group
        if max_task_retries is not None:
            given["retries"] = max_task_retries
        if retry_exceptions is not None:
            given["retry_exceptions"] = exception_classes(retry_exceptions)
        if _generator_backpressure_num_objects is not None:
            given["backpressure"] = _generator_backpressure_num_objects
        options = dataclasses.replace(self._options, **given)
        return ActorMethod(self._handle, self._name, options, name or self._task_name)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns its ref, a list of refs, or the generator of a stream.

        Raises:
            PendingCallsLimitExceeded: the actor has ``max_pending_calls`` calls without a reply.
        """
        handle = self._handle
        core = current_core()
        if handle._max_pending_calls > 0:
            core.actor_calls.check_room(handle._actor_id, handle._max_pending_calls)
        return returned(
            core.submit_call(
                handle._actor_id, self._name, self._task_name, args, kwargs, self._options
            )
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "Actor methods cannot be called directly. Instead of running "
            f"'object.{self._name}()', try 'object.{self._name}.remote()'."
        )


class ActorHandle:
    """A reference to an actor. The actor ends when its last handle goes, unless detached."""

    def __init__(
        self,
        actor_id: bytes,
        class_name: str,
        methods: dict[str, MethodOptions],
        max_task_retries: int,
        max_pending_calls: int,
        ref: ObjectRef | None,
    ) -> None:
        self._actor_id = actor_id
        self._class_name = class_name
        self._methods = methods
        self._max_task_retries = max_task_retries
        self._max_pending_calls = max_pending_calls
        self._ref = ref
        self._known: dict[str, TaskOptions] = {}

    def __getattr__(self, name: str) -> ActorMethod:
        known = self.__dict__.get("_known", {})
        options = known.get(name)
        if options is None:
            options = known[name] = self._task_options(name)
        return ActorMethod(self, name, options)

    def _task_options(self, name: str) -> TaskOptions:
        methods = self.__dict__.get("_methods", {})
        if name in _BUILT_IN_METHODS:
            method = MethodOptions()
        elif name in methods:
            method = methods[name]
        else:
            raise AttributeError(
                f"'{self.__dict__.get('_class_name')}' object has no attribute '{name}'"
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
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (
            self._actor_id, self._class_name, self._methods, self._max_task_retries,
            self._max_pending_calls, self._ref,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Actor({self._class_name}, {self._actor_id.hex()})"


def find_actor(name: str, namespace: str) -> ActorHandle | None:
    """The actor of that name, or None."""
    body = msgspec.msgpack.encode(NamedActor(name, namespace))
    reply = current_core().peers.gcs_call("FindActor", body)
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
