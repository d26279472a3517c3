"""The options of tasks and actors: one table, read by `remote` and by `.options`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbray.calls.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from nbray.common.ignoring import ignore
from nbray.common.resources import UNIT, check_amount, to_units
from nbray.common.text import check_text
from nbray.core_worker.own.streams import DYNAMIC, STREAMING
from nbray.runtime_env.spec import validate
from nbray.scheduling.labels import parse_selector
from nbray.wire.strategies import ANYWHERE, LabelTerm, Selectors, Spread, Strategy

MOST_COUNT = (1 << 31) - 1
MOST_RETURNS = 1_000_000


def _max_retries() -> int:
    """The default, which Ray's variable for it changes."""
    text = os.environ.get("RAY_TASK_MAX_RETRIES", "3")
    try:
        return max(-1, int(text))
    except ValueError:
        raise ValueError(f"RAY_TASK_MAX_RETRIES is a number, not {text!r}.") from None


@dataclass(frozen=True)
class Option:
    """One option: what it takes, its default, and whether tasks or actors have it.

    ``least`` is the smallest value of a count: 0, or -1 which then means "any number"; no number
    is above `MOST_COUNT`, and no text longer than `LONGEST_NAME`.
    """

    types: tuple[type, ...]
    default: Any
    task: bool
    actor: bool
    help: str
    least: int | None = None


OPTIONS: dict[str, Option] = {
    "num_cpus": Option(
        (float, int), None, True, True, "CPUs; tasks 1; actors 0, or 1 with other resources"
    ),
    "num_gpus": Option((float, int), None, True, True, "GPUs"),
    "memory": Option((float, int), None, True, True, "bytes of memory"),
    "resources": Option((dict,), None, True, True, "custom resources by name"),
    "num_returns": Option(
        (int, str),
        None,
        True,
        False,
        "how many values; 'streaming' (the default of generators) or 'dynamic'",
    ),
    "max_retries": Option(
        (int,), _max_retries(), True, False, "runs again after a worker died; -1: always", -1
    ),
    "retry_exceptions": Option(
        (bool, list, tuple), False, True, False, "run again after an exception, or after these"
    ),
    "max_calls": Option(
        (int,), None, True, False, "calls after which the worker leaves; 0: never", 0
    ),
    "_generator_backpressure_num_objects": Option(
        (int,), None, True, False, "items that a stream may be ahead of its reader"
    ),
    "runtime_env": Option(
        (dict,), None, True, True, "variables, files and packages; see nbray.runtime_env"
    ),
    "name": Option((str,), None, True, True, "a name to show, or to find an actor by"),
    "namespace": Option((str,), None, False, True, "the namespace of an actor's name"),
    "lifetime": Option((str,), None, False, True, "'detached' actors outlive their driver"),
    "get_if_exists": Option((bool,), False, False, True, "use the actor of that name"),
    "max_restarts": Option((int,), 0, False, True, "restarts after a crash; -1: always", -1),
    "max_task_retries": Option((int,), 0, False, True, "repeats of calls after a crash", -1),
    "max_concurrency": Option((int,), 0, False, True, "calls at the same time", 0),
    "max_pending_calls": Option(
        (int,),
        -1,
        False,
        True,
        "calls without a reply that one caller may have; -1: any number",
        -1,
    ),
    "concurrency_groups": Option(
        (dict,), None, False, True, "calls at the same time, by the name of the group"
    ),
    "allow_out_of_order_execution": Option(
        (bool,),
        None,
        False,
        True,
        "calls overtake others that wait for arguments; always so with async or threaded actors",
    ),
    "scheduling_strategy": Option(
        (
            str,
            NodeAffinitySchedulingStrategy,
            NodeLabelSchedulingStrategy,
            PlacementGroupSchedulingStrategy,
        ),
        None,
        True,
        True,
        "DEFAULT, SPREAD, or an object of util.scheduling_strategies",
    ),
    "placement_group": Option((object,), None, True, True, "a placement group, or 'default'"),
    "placement_group_bundle_index": Option((int,), -1, True, True, "which bundle; -1 for any"),
    "placement_group_capture_child_tasks": Option(
        (bool,), None, True, True, "what it submits runs in its group, too"
    ),
    "label_selector": Option((dict,), None, True, True, "conditions on the node's labels"),
    "fallback_strategy": Option(
        (list,), None, True, True, "other label selectors, in turn: [{'label_selector': {...}}]"
    ),
    "accelerator_type": Option((str,), None, True, True, "the kind of accelerator, as A100"),
    "object_store_memory": Option((int, float), None, True, True, "no effect", 0),
    "enable_task_events": Option((bool,), True, True, True, "no effect"),
    "enable_tensor_transport": Option((bool,), None, False, True, "no effect"),
    "_labels": Option((dict,), None, True, True, "no effect"),
    "_metadata": Option((dict,), None, True, True, "no effect"),
}
"""All options; those without an effect are Ray's, and are told of at debug level."""

_IGNORED = {name for name, known in OPTIONS.items() if known.help == "no effect"}


def check_options(given: Mapping[str, Any], *, actor: bool) -> dict[str, Any]:
    """The options as a dict, checked.

    Raises:
        ValueError: an option is unknown here, or its value is impossible.
        TypeError: a value has the wrong type.
    """
    kind = "actors" if actor else "remote functions"
    checked = dict(given)
    for name, value in given.items():
        option = OPTIONS.get(name)
        if option is None or not (option.actor if actor else option.task):
            known = sorted(n for n, o in OPTIONS.items() if (o.actor if actor else o.task))
            raise ValueError(f"Invalid option keyword {name} for {kind}. Valid ones are {known}.")
        if value is not None:
            checked[name] = _checked(name, option, value)
    if checked.get("object_store_memory") is not None and not actor:
        raise ValueError("Setting 'object_store_memory' is not implemented for tasks")
    if not _IGNORED.isdisjoint(given):
        ignore("@nbray.remote", sorted(_IGNORED.intersection(given)))
    if checked.get("runtime_env") is not None:
        checked["runtime_env"] = validate(checked["runtime_env"])
    if checked.get("label_selector") or checked.get("fallback_strategy"):
        selector_of(checked)
    return checked


_LEAST = {
    0: "The keyword '{}' only accepts None, 0 or a positive integer.",
    -1: "The keyword '{}' only accepts None, 0, -1 or a positive integer, where -1 "
    "represents infinity.",
}


def _checked(name: str, option: Option, value: Any) -> Any:
    """A value that is possible; numbers and texts without the class that they had, if any."""
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


def check_call_option(name: str, value: Any) -> Any:
    """An option of one method, or of one call of it, checked; None is none.

    Raises:
        ValueError: its value is impossible. TypeError: it has the wrong type.
    """
    if value is None:
        return None
    if name == "tensor_transport":
        ignore("@nbray.method", (name,))
        return value
    if name != "concurrency_group":
        return _checked(name, OPTIONS[name], value)
    if not isinstance(value, str):
        raise TypeError(f"'concurrency_group' is the name of a group, not {type(value)}")
    return check_text("The option 'concurrency_group'", value) if value else value


def option(options: Mapping[str, Any], name: str) -> Any:
    """The value of an option, or its default."""
    value = options.get(name)
    return OPTIONS[name].default if value is None else value


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
        custom[f"accelerator_type:{options['accelerator_type']}"] = 0.001
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
                    return int(_checked("max_retries", OPTIONS["max_retries"], int(text)))
                except ValueError as error:
                    raise ValueError(f"{name}={text}: {error}") from error
    return int(option(options, "max_retries"))


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
