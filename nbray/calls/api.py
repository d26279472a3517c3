"""The public functions."""

from __future__ import annotations

import inspect
from typing import Any

from nbray.calls.actor import ActorClass
from nbray.calls.handles import ActorHandle, find_actor
from nbray.calls.remote_function import RemoteFunction
from nbray.common.ignoring import ignore
from nbray.common.text import check_namespace, check_text
from nbray.common.timeouts import as_timeout
from nbray.core_worker.values.generators import ObjectRefGenerator
from nbray.core_worker.values.serializability import unpicklable
from nbray.driver.driver import current_core
from nbray.object_ref import ObjectRef
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.options.table import options_of


@takes_options(Scope.TASK, Scope.ACTOR)
def remote(*args: Any, **options: Any) -> Any:
    """Make a function a `RemoteFunction` or a class an `ActorClass`; also with options.

    Args:
        args: the function or class, when there are no parentheses.
        options: options of its tasks or actors by name, as ``num_cpus=2``.

    Returns:
        A `RemoteFunction` or an `ActorClass`; with options, a decorator that makes one.

    Raises:
        AssertionError: it was used in another way, as in Ray.
        TypeError: it is neither a function nor a class.
        ValueError: an option is unknown.

    Examples:
        >>> @nbray.remote
        ... def square(x):
        ...     return x * x
        >>> nbray.get([square.remote(i) for i in range(4)])
        [0, 1, 4, 9]

        >>> @nbray.remote(num_cpus=0)
        ... class Counter:
        ...     def __init__(self, start=0):
        ...         self.count = start
        ...
        ...     def add(self, amount=1):
        ...         self.count += amount
        ...         return self.count
        >>> counter = Counter.remote(10)
        >>> nbray.get(counter.add.remote(5))
        15
    """
    if len(args) == 1 and not options and (inspect.isclass(args[0]) or callable(args[0])):
        return _make_remote(args[0], {})
    if args or not options:
        known = sorted({*options_of(Scope.TASK), *options_of(Scope.ACTOR)})
        raise AssertionError(
            "The @nbray.remote decorator must be applied either with no arguments and no "
            "parentheses, for example '@nbray.remote', or it must be applied using some of the "
            f"arguments in the list {known}, for example '@nbray.remote(num_returns=2)'."
        )
    return lambda target: _make_remote(target, options)


def _make_remote(target: Any, options: dict[str, Any]) -> RemoteFunction | ActorClass:
    if inspect.isclass(target):
        return ActorClass(target, options)
    if callable(target) and not isinstance(target, RemoteFunction | ActorClass):
        return RemoteFunction(target, options)
    raise TypeError("The @nbray.remote decorator must be applied to either a function or a class.")


def get(
    object_refs: ObjectRef | list[ObjectRef],
    *,
    timeout: float | None = None,
    _use_object_store: bool = False,
) -> Any:
    """The value of a ref, or the values of a list of refs.

    Args:
        object_refs: one ref, or a list.
        timeout: seconds; None waits for ever.
        _use_object_store: has no effect: values are where they are.

    Returns:
        The value, or a list of values in the order of the refs. An array is read where it lies in
        the node's shared memory, and cannot be written to, unless it is 100 KB or smaller.

    Raises:
        GetTimeoutError: not all were ready in time.
        TaskError: a task failed, and the others are not waited for; also an instance of the user's
            exception class.
        ValueError: neither a ref nor a list was given, or the timeout is NaN. TypeError: a list of
            something else was given, or a timeout that is no number.

    Examples:
        >>> nbray.get(nbray.put("here"))
        'here'
        >>> nbray.get([nbray.put(i) for i in range(3)])
        [0, 1, 2]

        >>> import time
        >>> sleeper = nbray.remote(num_cpus=0)(time.sleep).remote(60)
        >>> try:
        ...     nbray.get(sleeper, timeout=0.1)
        ... except nbray.exceptions.GetTimeoutError:
        ...     nbray.cancel(sleeper)
        ...     print("not within 0.1 s")
        not within 0.1 s
    """
    if timeout is not None:
        timeout = as_timeout(timeout)
    if isinstance(object_refs, ObjectRef):
        return current_core().get_one(object_refs, timeout)
    if isinstance(object_refs, ObjectRefGenerator):
        return object_refs
    if not isinstance(object_refs, list):
        raise ValueError(
            f"Invalid type of object refs, {type(object_refs)}, is given. 'object_refs' must "
            "either be an ObjectRef or a list of ObjectRefs."
        )
    for ref in object_refs:
        if not isinstance(ref, ObjectRef):
            raise TypeError(
                f"Attempting to call `get` on the value {ref}, which is not an nbray.ObjectRef."
            )
    return current_core().get(object_refs, timeout)


def put(
    value: Any, *, _owner: ActorHandle | None = None, _tensor_transport: str | None = None
) -> ObjectRef:
    """Store ``value`` and return its ref.

    Args:
        value: what to store.
        _owner: has no effect: who puts a value is its owner.
        _tensor_transport: has no effect: arrays go through the object store.

    Returns:
        The ref of the value, whose owner is this process.

    Raises:
        TypeError: ``value`` is a ref already, or cannot be pickled.
        OutOfDiskError: there is no room in the object store, nor on the disk.

    Examples:
        >>> import numpy as np
        >>> table = nbray.put(np.ones(100_000))  # stored once, for any number of tasks

        >>> @nbray.remote
        ... def total(array, factor):
        ...     return float(array.sum()) * factor
        >>> nbray.get([total.remote(table, factor) for factor in (1, 2)])
        [100000.0, 200000.0]
    """
    if isinstance(value, ObjectRef):
        raise TypeError(
            "Calling 'put' on an nbray.ObjectRef is not allowed. If you really want to do this, "
            "you can wrap the nbray.ObjectRef in a list and call 'put' on it."
        )
    if _owner is not None or _tensor_transport is not None:
        ignore("nbray.put()", ("_owner", "_tensor_transport"))
    try:
        return current_core().put(value)
    except TypeError as error:
        raise unpicklable(value, "the put value", "value", error) from error


def wait(
    ray_waitables: list[ObjectRef],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef], list[ObjectRef]]:
    """Wait until ``num_returns`` of ``ray_waitables`` are ready, or ``timeout`` seconds are over.

    Args:
        ray_waitables: refs, or generators of streams, which are ready when their next ref is.
        num_returns: how many to wait for.
        timeout: seconds; None waits for ever.
        fetch_local: has no effect: a value that is ready is brought here when it is read.

    Returns:
        At most ``num_returns`` ready refs, and all others, in the given order.

    Raises:
        TypeError: something else than a list of refs, or a part of a ref, was given.
        ValueError: duplicates, an impossible number, or a negative timeout.

    Examples:
        >>> import time
        >>> sleep = nbray.remote(num_cpus=0)(time.sleep)
        >>> refs = [sleep.remote(60), sleep.remote(0)]
        >>> ready, others = nbray.wait(refs, num_returns=1, timeout=30)
        >>> ready == [refs[1]], others == [refs[0]]
        (True, True)
        >>> nbray.cancel(refs[0])
    """
    del fetch_local
    expected = "wait() expected a list of nbray.ObjectRef or nbray.ObjectRefGenerator, got "
    if isinstance(ray_waitables, ObjectRef | ObjectRefGenerator):
        raise TypeError(f"{expected}a single nbray.{type(ray_waitables).__name__}.")
    if not isinstance(ray_waitables, list):
        raise TypeError(f"{expected}{type(ray_waitables)}.")
    timeout = as_timeout(timeout)
    if timeout is not None and timeout < 0:
        raise ValueError(f"The 'timeout' argument must be nonnegative. Received {timeout}.")
    refs = ray_waitables
    kinds = set(map(type, refs))
    if not kinds <= {ObjectRef, ObjectRefGenerator}:
        other = next(ref for ref in refs if not isinstance(ref, ObjectRef | ObjectRefGenerator))
        raise TypeError(f"{expected}list containing {type(other)}.")
    if not refs:
        return [], []
    unique = {ref._id for ref in refs} if kinds == {ObjectRef} else set(refs)
    if len(unique) != len(refs):
        raise ValueError("Wait requires a list of unique ray_waitables.")
    if num_returns <= 0:
        raise ValueError(f"Invalid number of objects to return {num_returns}.")
    if num_returns % 1:
        raise TypeError(f"num_returns is a whole number, not {num_returns}.")
    if num_returns > len(refs):
        raise ValueError(
            "num_returns cannot be greater than the number of ray_waitables provided to nbray.wait."
        )
    return current_core().values.wait(refs, int(num_returns), timeout)


def cancel(
    ray_waitable: ObjectRef | ObjectRefGenerator, *, force: bool = False, recursive: bool = True
) -> None:
    """Stop the task that makes ``ray_waitable``: queued, or running (by a KeyboardInterrupt in it).

    A running call of an async actor is cancelled as a coroutine. A method of another actor goes on
    until it ends: it may ask `nbray.get_runtime_context().is_canceled()`. What it returns is lost,
    as in Ray.

    Args:
        ray_waitable: a ref, or the generator of a stream.
        force: end the worker's process; not for calls of actors.
        recursive: stop the tasks that the task submitted, too.

    Raises:
        TypeError: something else was given.
        ValueError: ``force`` was given for a call of an actor.

    Examples:
        >>> import time
        >>> ref = nbray.remote(num_cpus=0)(time.sleep).remote(60)
        >>> nbray.cancel(ref)
        >>> try:
        ...     nbray.get(ref)
        ... except nbray.exceptions.TaskCancelledError:
        ...     print("cancelled")
        cancelled
    """
    ref = ray_waitable
    if isinstance(ref, ObjectRefGenerator):
        ref = ref.completed()
    if not isinstance(ref, ObjectRef):
        raise TypeError(
            "nbray.cancel() only supported for object refs. For actors, try nbray.kill(). "
            f"Got: {type(ref)}."
        )
    core = current_core()
    if force and core.cancelling.is_actor_call(ref._id):
        raise ValueError("force=True is not supported for actor tasks.")
    core.cancelling.cancel(ref._id, force, recursive)


def kill(actor: ActorHandle, *, no_restart: bool = True) -> None:
    """End an actor's process at once.

    Args:
        actor: a handle of the actor.
        no_restart: False lets an actor with ``max_restarts`` come back.

    Raises:
        ValueError: something else than a handle was given.
        ActorHandleNotFoundError: the handle is of an earlier session.

    Examples:
        >>> @nbray.remote
        ... class Worker:
        ...     def ready(self):
        ...         return True
        >>> worker = Worker.remote()
        >>> nbray.get(worker.ready.remote())
        True
        >>> nbray.kill(worker)
        >>> try:
        ...     nbray.get(worker.ready.remote())
        ... except nbray.exceptions.ActorDiedError:
        ...     print("it is gone")
        it is gone
    """
    if not isinstance(actor, ActorHandle):
        raise ValueError(
            "nbray.kill() only supported for actors. For tasks, try nbray.cancel(). "
            f"Got: {type(actor)}."
        )
    actor._check_session()
    current_core().kill_actor(actor._id, no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle:
    """The named actor.

    Args:
        name: the actor's option ``name``.
        namespace: where the name lives; this program's own by default.

    Returns:
        A handle, which does not keep the actor alive.

    Raises:
        ValueError: there is none of that name, or the name or namespace cannot be one.
        TypeError: the name or namespace is no text.

    Examples:
        >>> @nbray.remote
        ... class Settings:
        ...     def level(self):
        ...         return 3
        >>> settings = Settings.options(name="settings").remote()
        >>> nbray.get(nbray.get_actor("settings").level.remote())
        3
    """
    if not name:
        raise ValueError("Please supply a non-empty value to get_actor")
    if not isinstance(name, str):
        raise TypeError(f"The name of an actor must be a string, not {type(name)}.")
    name = check_text("The name of an actor", name)
    namespace = check_namespace(namespace) or current_core().job.namespace
    found = find_actor(name, namespace)
    if found is None:
        raise ValueError(
            f"Failed to look up actor with name '{name}'. None that lives has it in the namespace "
            f"'{namespace}': it was not created, has died, or is in another namespace."
        )
    return found
