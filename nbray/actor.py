"""``@nbray.remote`` classes and the handles of their actors."""

from __future__ import annotations

import inspect
import os
from typing import Any

import msgspec

from nbray.driver import current_core
from nbray.object_ref import ObjectRef
from nbray.options import check_options, option, resource_units
from nbray.remote_function import returned
from nbray.util.function_pickles import KeptPickle
from nbray.wire.gcs_messages import FoundActor, NamedActor
from nbray.wire.messages import ActorOptions, ActorSpec


def method(*, num_returns: int = 1) -> Any:
    """Options of one method of an actor class."""

    def mark(function: Any) -> Any:
        function.__nbray_num_returns__ = num_returns
        return function

    return mark


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
        name = option(options, "name") or ""
        namespace = option(options, "namespace") or core.job.namespace
        if option(options, "get_if_exists") and name:
            found = find_actor(name, namespace)
            if found is not None:
                return found
        if options.get("lifetime") not in (None, "detached", "non_detached"):
            raise ValueError("lifetime must be 'detached', 'non_detached' or None.")
        members = inspect.getmembers(self._cls, callable)
        methods = {n: getattr(f, "__nbray_num_returns__", 1) for n, f in members if _is_method(n)}
        actor_id = os.urandom(12) + core.job.job_id
        payload, dependencies, contained = core.actor_arguments(args, kwargs)
        detached = options.get("lifetime") == "detached"
        ref = None if detached else core.actor_ref(actor_id)
        spec = ActorSpec(
            actor_id, core.job.job_id, self.__name__, actor_id, self._pickle.get()[1], payload,
            dependencies, contained, methods,
            ActorOptions(
                resource_units(options, 0), name, namespace, detached,
                option(options, "max_restarts"), option(options, "max_task_retries"),
                option(options, "max_concurrency"),
                any(inspect.iscoroutinefunction(f) for _, f in members),
            ),
            core.address,
        )  # fmt: skip
        core.actor_calls.create(spec, wait=bool(name))
        return ActorHandle(actor_id, self.__name__, methods, spec.options.max_task_retries, ref)


def _is_method(name: str) -> bool:
    return not name.startswith("__") or name in ("__call__", "__len__", "__getitem__")


class ActorMethod:
    """A method of an actor: ``handle.method.remote(...)``."""

    __slots__ = ("_handle", "_name", "_num_returns")

    def __init__(self, handle: ActorHandle, name: str, num_returns: int) -> None:
        self._handle = handle
        self._name = name
        self._num_returns = num_returns

    def options(self, *, num_returns: int = 1) -> ActorMethod:
        """The same method with other options."""
        return ActorMethod(self._handle, self._name, num_returns)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns its ref, or a list of refs."""
        handle = self._handle
        return returned(
            current_core().submit_call(
                handle._actor_id, self._name, f"{handle._class_name}.{self._name}",
                args, kwargs, self._num_returns, handle._max_task_retries,
            )
        )  # fmt: skip

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
        methods: dict[str, int],
        max_task_retries: int,
        ref: ObjectRef | None,
    ) -> None:
        self._actor_id = actor_id
        self._class_name = class_name
        self._methods = methods
        self._max_task_retries = max_task_retries
        self._ref = ref

    def __getattr__(self, name: str) -> ActorMethod:
        if name == "__nbray_ready__" or name == "__ray_ready__":
            return ActorMethod(self, "__nbray_ready__", 1)
        methods = self.__dict__.get("_methods", {})
        if name not in methods:
            raise AttributeError(
                f"'{self.__dict__.get('_class_name')}' object has no attribute '{name}'"
            )
        return ActorMethod(self, name, methods[name])

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorHandle, (
            self._actor_id, self._class_name, self._methods, self._max_task_retries, self._ref,
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
        found.actor_id, found.class_name, found.methods, found.max_task_retries, None
    )
