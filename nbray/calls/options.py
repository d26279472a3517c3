"""What the options of tasks, actors and methods mean; `nbray.options` declares them."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping
from typing import Any

from nbray.common.accelerators import ACCELERATOR_TYPE
from nbray.common.ignoring import ignore
from nbray.common.resources import UNIT, check_amount, to_units
from nbray.common.text import check_text
from nbray.options.option import Option, Scope
from nbray.options.table import options_of
from nbray.runtime_env.spec import validate
from nbray.scheduling.labels import parse_selector
from nbray.scheduling.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from nbray.wire.records import DYNAMIC, STREAMING
from nbray.wire.strategies import ANYWHERE, LabelTerm, Selectors, Spread, Strategy

MOST_COUNT = (1 << 31) - 1
MOST_RETURNS = 1_000_000


def check_options(given: Mapping[str, Any], *, actor: bool) -> dict[str, Any]:
    """The options of a remote function or an actor class as a dict, checked.

    Raises:
        ValueError: an option is unknown here, or its value is impossible.
        TypeError: a value has the wrong type.
    """
    scope, kind = (Scope.ACTOR, "actors") if actor else (Scope.TASK, "remote functions")
    known = options_of(scope)
    checked = dict(given)
    for name, value in given.items():
        if name not in known:
            raise ValueError(
                f"Invalid option keyword {name} for {kind}. Valid ones are {sorted(known)}."
            )
        if value is not None:
            checked[name] = _checked(known[name], value)
    if checked.get("object_store_memory") is not None and not actor:
        raise ValueError("Setting 'object_store_memory' is not implemented for tasks")
    _tell_ignored("@nbray.remote", known, given)
    _check_one_place(checked)
    if checked.get("runtime_env") is not None:
        checked["runtime_env"] = validate(checked["runtime_env"])
    if checked.get("label_selector") or checked.get("fallback_strategy"):
        selector_of(checked)
    return checked


def check_call_options(given: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    """The options of a method, or of one call of it, checked; those that are None are left out.

    Raises:
        ValueError: a value is impossible. TypeError: an option is unknown, or has the wrong type.
    """
    known = options_of(scope)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise TypeError(
            f"A method has no option {unknown[0]!r}. Those that it has are {sorted(known)}."
        )
    _tell_ignored("@nbray.method", known, given)
    return {
        name: _checked(known[name], value)
        for name, value in given.items()
        if value is not None and known[name].has_effect
    }


def _check_one_place(options: Mapping[str, Any]) -> None:
    """Refuse a group beside a strategy: one of them would have no effect.

    Raises:
        ValueError: there are both.
    """
    group = options.get("placement_group", "default")
    if options.get("scheduling_strategy") is not None and group not in (None, "default"):
        raise ValueError(
            "Placement groups should be specified via the scheduling_strategy option. "
            "The placement_group option is deprecated."
        )


def _tell_ignored(where: str, known: Mapping[str, Option], given: Iterable[str]) -> None:
    ignored = [name for name in given if not known[name].has_effect]
    if ignored:
        ignore(where, ignored)


_LEAST = {
    0: "The keyword '{}' only accepts None, 0 or a positive integer.",
    -1: "The keyword '{}' only accepts None, 0, -1 or a positive integer, where -1 "
    "represents infinity.",
}


def _checked(option: Option, value: Any) -> Any:
    """A value that is possible; numbers and texts without the class that they had, if any."""
    name = option.name
    if not issubclass(type(value), option.types):
        types = (*option.types, type(None))
        raise TypeError(
            f"The type of keyword '{name}' must be {types}, but received type {type(value)}"
        )
    if isinstance(value, str) and value:
        value = check_text(f"The option {name!r}", value)
    elif isinstance(value, int) and bool not in option.types:
        value = int(value)
    if option.least is not None and value < option.least:
        raise ValueError(_LEAST[option.least].format(name))
    match name:
        case "num_cpus" | "num_gpus" | "memory":
            check_amount(name, value)
            if name == "num_gpus" and value > 1 and value % 1:  # a share is one of a single GPU
                raise ValueError(
                    "GPU resource quantities >1 must be whole numbers. The specified quantity "
                    f"{value} is invalid."
                )
        case "resources":
            _check_resources(value)
        case "num_returns":
            num_returns_code(value, None)
        case "concurrency_groups":
            return _checked_groups(value)
        case "lifetime" if value not in ("detached", "non_detached"):
            raise ValueError(
                "actor `lifetime` argument must be one of 'detached', 'non_detached' and 'None'."
            )
        case "_generator_backpressure_num_objects" if value == 0 or value < -1:
            raise ValueError(
                f"_generator_backpressure_num_objects={value} is not allowed. Use a value > 0, or "
                "-1 for a stream that is as far ahead as it can."
            )
        case _ if isinstance(value, int) and value > MOST_COUNT:
            instead = " -1 represents infinity." if option.least == -1 else ""
            raise ValueError(
                f"The keyword '{name}' only accepts numbers up to {MOST_COUNT}.{instead}"
            )
    return value


def _check_resources(value: Mapping[Any, Any]) -> None:
    if "CPU" in value or "GPU" in value:
        raise ValueError(
            "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in "
            "'resources' keyword"
        )
    if "memory" in value or "object_store_memory" in value:
        raise ValueError(
            "Use the 'memory' keyword instead of 'memory' in 'resources' keyword; the object "
            "store is no resource that can be asked for"
        )
    for resource, quantity in value.items():
        check_amount(resource, quantity)


def _checked_groups(value: Mapping[Any, Any]) -> dict[str, int]:
    checked = {}
    for group, calls in value.items():
        if not isinstance(group, str) or isinstance(calls, bool) or not isinstance(calls, int):
            raise TypeError(
                "'concurrency_groups' has a number of calls by the name of the group, not "
                f"{type(calls)} by {type(group)}"
            )
        name = check_text("The name of a concurrency group", group)
        if not 0 < calls <= MOST_COUNT:
            raise ValueError(
                f"The concurrency group {name!r} only accepts numbers from 1 to {MOST_COUNT}."
            )
        checked[name] = int(calls)
    return checked


def option(options: Mapping[str, Any], name: str, scope: Scope = Scope.ACTOR) -> Any:
    """The value of an option, or its default."""
    value = options.get(name)
    return options_of(scope)[name].default if value is None else value


def resource_units(options: Mapping[str, Any], default_cpus: float) -> dict[str, int]:
    """What the options ask for, in units.

    Raises:
        ValueError: an amount is no number that resources come in.
    """
    custom = dict(options.get("resources") or {})
    cpus = options.get("num_cpus")
    custom["CPU"] = default_cpus if cpus is None else cpus
    custom["GPU"] = options.get("num_gpus") or 0
    custom["memory"] = options.get("memory") or 0
    if options.get("accelerator_type"):
        custom[f"{ACCELERATOR_TYPE}{options['accelerator_type']}"] = 0.001
    return to_units(custom)


def actor_units(options: Mapping[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """What an actor takes, and what its node must have when that is more, in units; as in Ray.

    Without a word on resources but memory, it takes no CPU, and its node has one. With some,
    it takes a CPU, too, unless ``num_cpus`` says otherwise.
    """
    named = ("num_cpus", "num_gpus", "accelerator_type")
    if options.get("resources") or any(options.get(name) is not None for name in named):
        return resource_units(options, 1), {}
    taken = resource_units(options, 0)
    return taken, {**taken, "CPU": UNIT}


def num_returns_code(value: int | str | None, function: Any) -> int:
    """How many values a function returns, as the runtime counts: negative for streams.

    Args:
        value: the option; None is 1, or a stream for generator functions.
        function: the user's function; None when it is not known.

    Raises:
        ValueError: it is another text, negative, or too large, or the function yields nothing.
    """
    if value is None:
        return STREAMING if _yields(function) else 1
    codes: dict[int | str, int] = {"streaming": STREAMING, "dynamic": DYNAMIC}
    if value in codes:
        if function is not None and not _yields(function):
            raise ValueError(
                f"num_returns={value!r} can only be used with generator functions (functions that "
                "use 'yield'). The decorated function is not a generator function."
            )
        return codes[value]
    if not isinstance(value, int) or value < 0:
        low = "num_returns must be >= 0, but got " if isinstance(value, int) else "It got "
        raise ValueError(
            f"{low}{value!r}. The keyword 'num_returns' only accepts None, a non-negative integer, "
            "'streaming' (for generators), or 'dynamic'."
        )
    if value > MOST_RETURNS:
        raise ValueError(f"num_returns must be <= {MOST_RETURNS:,}; 'streaming' has no such bound.")
    return value


def _yields(function: Any) -> bool:
    function = inspect.unwrap(function)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def backpressure_code(value: int | None) -> int:
    """How many items a stream may be ahead of its reader, as the runtime counts: 0 for any."""
    return max(0, value or 0)


def exception_classes(value: Any) -> bool | tuple[type[BaseException], ...]:
    """The option ``retry_exceptions``, checked.

    Raises:
        ValueError: it holds something else than exception classes.
    """
    if isinstance(value, bool) or value is None:
        return bool(value)
    classes = tuple(value)
    if not all(isinstance(c, type) and issubclass(c, BaseException) for c in classes):
        raise ValueError(
            "retry_exceptions must be either a boolean or a list of exceptions, "
            f"but received {value!r}."
        )
    return classes


def strategy_of(options: Mapping[str, Any]) -> Strategy:
    """The option ``scheduling_strategy`` as it travels.

    Raises:
        ValueError: there is no such strategy.
    """
    match options.get("scheduling_strategy"):
        case None | "DEFAULT" | PlacementGroupSchedulingStrategy():
            return ANYWHERE  # groups are the matter of `nbray.calls.grouping`
        case "SPREAD":
            return Spread()
        case NodeAffinitySchedulingStrategy() | NodeLabelSchedulingStrategy() as strategy:
            return strategy.on_wire()
        case other:
            raise ValueError(
                f"Invalid scheduling_strategy value {other}. Valid values are [`DEFAULT` | "
                "`SPREAD` | `PlacementGroupSchedulingStrategy` | "
                "`NodeAffinitySchedulingStrategy` | `NodeLabelSchedulingStrategy`]"
            )


def max_retries_of(options: Mapping[str, Any]) -> int:
    """The option ``max_retries``; what ``NBRAY_TASK_MAX_RETRIES`` says, or Ray's name, without it.

    Raises:
        ValueError: the variable is no such number.
    """
    if options.get("max_retries") is None:
        for name in ("NBRAY_TASK_MAX_RETRIES", "RAY_TASK_MAX_RETRIES"):
            text = os.environ.get(name)
            if text:
                try:
                    return int(_checked(options_of(Scope.TASK)["max_retries"], int(text)))
                except ValueError as error:
                    raise ValueError(f"{name}={text}: {error}") from error
    return int(option(options, "max_retries", Scope.TASK))


def selector_of(options: Mapping[str, Any]) -> Selectors:
    """The options ``label_selector`` and ``fallback_strategy`` as they travel.

    Raises:
        ValueError: one of them is malformed.
    """
    selector, others = options.get("label_selector"), options.get("fallback_strategy")
    if not selector and not others:
        return ()
    return (parse_selector(selector or {}), *map(_fallback, others or ()))


def _fallback(strategy: Any) -> tuple[LabelTerm, ...]:
    if not isinstance(strategy, dict):
        raise ValueError("Each element in fallback_strategy must be a dictionary.")
    if not strategy:
        raise ValueError("Empty dictionary found in `fallback_strategy`.")
    for option in strategy:
        if option != "label_selector":
            raise ValueError(
                f"Unsupported option found: '{option}'. Only ['label_selector'] is currently "
                "supported."
            )
    if not isinstance(strategy["label_selector"], dict):
        raise ValueError('The value of "label_selector" must be a dictionary.')
    return parse_selector(strategy["label_selector"])
