"""The methods of an actor class: what `method` said of them, and which of them handles have."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

from nbray import cloudpickle
from nbray.calls.options import (
    backpressure_code,
    check_call_options,
    exception_classes,
    num_returns_code,
    option,
)
from nbray.calls.signatures import CallCheck, parameters_of
from nbray.options.option import Scope
from nbray.options.showing import takes_options
from nbray.options.table import options_of
from nbray.wire.records import MethodOptions


@takes_options(Scope.METHOD)
def method(*functions: Any, **options: Any) -> Any:
    """Options of one method of an actor class: ``@method`` or ``@method(num_returns=2)``.

    Args:
        functions: the method, when there are no parentheses.
        options: its options by name.

    Returns:
        The method, marked; with options, a decorator that marks it.

    Raises:
        AssertionError: there is no such option, as in Ray.
        ValueError: the value of an option is impossible.

    Examples:
        >>> @nbray.remote
        ... class Splitter:
        ...     @nbray.method(num_returns=2)
        ...     def split(self, text):
        ...         return text.split("=")
        >>> name, value = Splitter.remote().split.remote("a=1")
        >>> nbray.get([name, value])
        ['a', '1']
    """
    known = options_of(Scope.METHOD)
    if functions and (options or len(functions) > 1 or not callable(functions[0])):
        raise AssertionError(
            "The @nbray.method decorator must be applied using no arguments or at least one of "
            f"the arguments {sorted(known)}, as @nbray.method(num_returns=2)."
        )
    for name in options:
        if name not in known:
            raise AssertionError(
                f"Unexpected keyword argument to @nbray.method: '{name}'. "
                f"The supported keyword arguments are {list(known)}"
            )
    checked = check_call_options(options, Scope.METHOD)

    def mark(function: Any) -> Any:
        retried = checked.get("retry_exceptions")
        function.__nbray_method__ = MethodOptions(
            num_returns_code(checked.get("num_returns"), function),
            checked.get("max_task_retries"),
            cloudpickle.dumps(exception_classes(retried)) if retried else b"",
            checked.get("concurrency_group") or "",
            backpressure_code(checked.get("_generator_backpressure_num_objects")),
        )
        return function

    if functions:
        return mark(functions[0])
    return mark


class Blueprint:
    """What is known of an actor class, once it has been used."""

    def __init__(self, cls: type) -> None:
        members = inspect.getmembers(cls, callable)
        self.methods = {
            name: _method_options(cls, name, f) for name, f in members if _is_method(name, f)
        }
        self.is_async = any(_is_async(f) for _, f in members)
        self.check = CallCheck(parameters_of(cls))


_OF_EVERY_OBJECT = frozenset(dir(object))


def _is_method(name: str, function: Any) -> bool:
    """Whether handles have it: of the special methods, those that the user wrote."""
    if not name.startswith("__"):
        return True
    if name in _OF_EVERY_OBJECT or not inspect.isroutine(function):
        return False
    return hasattr(inspect.unwrap(function), "__code__")


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def _method_options(cls: type, name: str, function: Any) -> MethodOptions:
    given: MethodOptions | None = getattr(function, "__nbray_method__", None)
    bound_later = inspect.isfunction(inspect.getattr_static(cls, name))
    return msgspec.structs.replace(
        given or MethodOptions(num_returns_code(None, function)),
        parameters=parameters_of(function, skip_first=bound_later),
    )


def in_or_out_of_order(known: Blueprint, options: Mapping[str, Any]) -> dict[str, MethodOptions]:
    """The methods, whose calls overtake each other if the actor is async or threaded, or may."""
    asked = option(options, "allow_out_of_order_execution")
    threaded = option(options, "max_concurrency") > 1 or option(options, "concurrency_groups")
    if known.is_async or threaded:
        if asked is False:
            raise ValueError(
                "If you're using multi-threaded (max_concurrency > 1) or async actors, "
                "allow_out_of_order_execution cannot be False: their calls run at the same time."
            )
    elif not asked:
        return known.methods
    return {
        name: msgspec.structs.replace(given, out_of_order=True)
        for name, given in known.methods.items()
    }
