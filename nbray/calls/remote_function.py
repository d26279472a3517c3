"""``@nbray.remote`` functions."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from nbray.calls.function_pickles import KeptPickle
from nbray.calls.grouping import GROUP_OPTIONS, group_strategy
from nbray.calls.options import (
    backpressure_code,
    check_options,
    exception_classes,
    max_retries_of,
    num_returns_code,
    option,
    resource_units,
    selector_of,
    strategy_of,
)
from nbray.calls.signatures import KeptCheck
from nbray.common.text import as_name
from nbray.core_worker.context import running
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.values.generators import ObjectRefGenerator
from nbray.dag import FunctionNode
from nbray.driver.driver import current_core
from nbray.object_ref import ObjectRef
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.wire.strategies import Shape


class RemoteFunction:
    """A function whose calls run as tasks: ``f.remote(...)``.

    Examples:
        >>> @nbray.remote
        ... def halves(x):
        ...     return x // 2, x - x // 2
        >>> low, high = halves.options(num_returns=2, name="split 7").remote(7)
        >>> nbray.get([low, high])
        [3, 4]
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        if inspect.iscoroutinefunction(function):
            raise ValueError(
                "'async def' should not be used for remote tasks. Wrap the coroutine in a plain "
                "function that calls `asyncio.run(f())`, or make it a method of an actor."
            )
        self._function = function
        options = self._options = check_options(options, actor=False)
        self._pickle = KeptPickle(function)
        self._check = KeptCheck(function)
        self._name = option(options, "name", Scope.TASK) or as_name(
            str(getattr(function, "__name__", repr(function)))
        )
        self._task_options = TaskOptions(
            shape=Shape(
                tuple(sorted(resource_units(options, 1).items())),
                strategy_of(options), selector_of(options),
            ),
            num_returns=num_returns_code(option(options, "num_returns", Scope.TASK), function),
            retries=max_retries_of(options),
            retry_exceptions=exception_classes(option(options, "retry_exceptions", Scope.TASK)),
            max_calls=option(options, "max_calls", Scope.TASK) or 0,
            backpressure=backpressure_code(options.get("_generator_backpressure_num_objects")),
        )  # fmt: skip
        self._resources = dict(self._task_options.shape.resources)
        self._says_group = not GROUP_OPTIONS.isdisjoint(options)
        functools.update_wrapper(self, function)

    @property
    def _function_name(self) -> str:
        """As Ray tells it; a name that programs for Ray use."""
        function = self._function
        name = getattr(function, "__qualname__", self._name)
        return f"{getattr(function, '__module__', '__main__')}.{name}"

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        name = f"{self._function.__module__}.{self._name}"
        raise TypeError(
            f"Remote functions cannot be called directly. Instead of running '{name}()', "
            f"try '{name}.remote()'."
        )

    @takes_options(Scope.TASK)
    def options(self, **options: Any) -> RemoteFunction:
        """The same function with other options.

        Args:
            options: as for `nbray.remote`; each replaces the one that the function has.

        Returns:
            Another `RemoteFunction`, of which the pickle is shared.

        Raises:
            ValueError: an option is unknown or impossible. TypeError: one has the wrong type.
        """
        other = RemoteFunction(self._function, {**self._options, **options})
        other._pickle, other._check = self._pickle, self._check
        return other

    def _remote(
        self, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`remote` with the options of one call; a name that programs for Ray use."""
        function = self.options(**options) if options else self
        return function.remote(*args, **(kwargs or {}))

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Submit a task.

        Args:
            args: the function's arguments; a ref among them stands for its value, for which the
                task waits.
            kwargs: the same, by name.

        Returns:
            The ref of its value; a list of refs for several, None for ``num_returns=0``, and an
            `ObjectRefGenerator` for a generator function.

        Raises:
            TypeError: the arguments do not fit the function; it or one of them cannot be pickled.
        """
        self._check(args, kwargs)
        core = current_core()
        own_env = self._options.get("runtime_env")
        env = core.runtime_envs.text_for(own_env) if own_env else core.runtime_envs.text
        if env != self._task_options.runtime_env:
            self._task_options = dataclasses.replace(self._task_options, runtime_env=env)
        task_options = self._task_options
        parent = running.get()
        if self._says_group or (parent is not None and parent.group is not None):
            group = group_strategy(self._options, self._resources, f"the task {self._name}")
            if group is not None:
                shape = msgspec.structs.replace(task_options.shape, strategy=group)
                task_options = dataclasses.replace(task_options, shape=shape)
        refs = core.submit_task(self._pickle.get(), self._name, args, kwargs, task_options)
        return returned(refs)

    def bind(self, /, *args: Any, **kwargs: Any) -> FunctionNode:
        """The call as a node of a graph, which is executed later; see `nbray.dag`.

        Args:
            args: the function's arguments, among which may be nodes.
            kwargs: the same, by name.

        Returns:
            The node.
        """
        return FunctionNode(self, args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFunction, (self._function, self._options)


def returned(refs: list[ObjectRef] | ObjectRefGenerator) -> Any:
    """What ``.remote`` gives back for these refs."""
    if isinstance(refs, list):
        return refs[0] if len(refs) == 1 else refs or None
    return refs
