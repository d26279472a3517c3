"""The options of tasks and actors: one table, read by `remote` and by `.options`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbray.common.resources import to_units
from nbray.core_worker.streams import DYNAMIC, STREAMING
from nbray.runtime_env.spec import validate
from nbray.scheduling.labels import parse_selector
from nbray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)
from nbray.wire.strategies import ANYWHERE, LabelTerm, Spread, Strategy


@dataclass(frozen=True)
class Option:
    """One option: what it takes, its default, and whether tasks or actors have it."""

    types: tuple[type, ...]
    default: Any
    task: bool
    actor: bool
    help: str


OPTIONS: dict[str, Option] = {
    "num_cpus": Option((int, float), None, True, True, "CPUs; tasks 1, running actors 0"),
    "num_gpus": Option((int, float), None, True, True, "GPUs"),
    "memory": Option((int, float), None, True, True, "bytes of memory"),
    "resources": Option((dict,), None, True, True, "custom resources by name"),
    "num_returns": Option(
        (int, str),
        None,
        True,
        False,
        "how many values; 'streaming' (the default of generators) or 'dynamic'",
    ),
    "max_retries": Option((int,), 3, True, False, "runs again after a worker died; -1: always"),
    "retry_exceptions": Option(
        (bool, list, tuple), False, True, False, "run again after an exception, or after these"
    ),
    "max_calls": Option((int,), None, True, False, "calls after which the worker leaves; 0: never"),
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
    "max_restarts": Option((int,), 0, False, True, "restarts after a crash; -1: always"),
    "max_task_retries": Option((int,), 0, False, True, "repeats of calls after a crash"),
    "max_concurrency": Option((int,), 0, False, True, "calls at the same time"),
    "max_pending_calls": Option(
        (int,), -1, False, True, "calls without a reply that one caller may have; -1: any number"
    ),
    "concurrency_groups": Option(
        (dict,), None, False, True, "calls at the same time, by the name of the group"
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
    "accelerator_type": Option((str,), None, True, True, "the kind of accelerator, as A100"),
}


def check_options(given: Mapping[str, Any], *, actor: bool) -> dict[str, Any]:
    """The options as a dict, checked.

    Raises:
        ValueError: an option is unknown here, or its value is impossible.
        TypeError: a value has the wrong type.
    """
    kind = "actors" if actor else "tasks"
    for name, value in given.items():
        option = OPTIONS.get(name)
        if option is None or not (option.actor if actor else option.task):
            known = sorted(n for n, o in OPTIONS.items() if (o.actor if actor else o.task))
            raise ValueError(f"Invalid option keyword {name} for {kind}. Valid ones are {known}.")
        if value is not None and not isinstance(value, option.types):
            names = " or ".join(t.__name__ for t in option.types)
            raise TypeError(
                f"The type of keyword '{name}' must be {names}, but received type {type(value)}"
            )
    checked = dict(given)
    if checked.get("runtime_env") is not None:
        checked["runtime_env"] = validate(checked["runtime_env"])
    return checked


def option(options: Mapping[str, Any], name: str) -> Any:
    """The value of an option, or its default."""
    value = options.get(name)
    return OPTIONS[name].default if value is None else value


def resource_units(options: Mapping[str, Any], default_cpus: float) -> dict[str, int]:
    """What the options ask for, in units.

    Raises:
        ValueError: an amount is negative, or CPU or GPU stand in ``resources``.
    """
    custom = dict(options.get("resources") or {})
    for name, keyword in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        if name in custom:
            raise ValueError(f"Use the '{keyword}' option instead of '{name}' in 'resources'.")
    cpus = options.get("num_cpus")
    custom["CPU"] = default_cpus if cpus is None else cpus
    custom["GPU"] = options.get("num_gpus") or 0
    custom["memory"] = options.get("memory") or 0
    if options.get("accelerator_type"):
        custom[f"accelerator_type:{options['accelerator_type']}"] = 0.001
    return to_units(custom)


def num_returns_code(value: int | str | None, function: Any) -> int:
    """How many values a function returns, as the runtime counts: negative for streams.

    Args:
        value: the option; None is 1, or a stream for generator functions.
        function: the user's function.

    Raises:
        ValueError: it is another text, or negative.
    """
    if value is None:
        function = inspect.unwrap(function)
        streams = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        return STREAMING if streams else 1
    codes: dict[int | str, int] = {"streaming": STREAMING, "dynamic": DYNAMIC}
    if value in codes:
        return codes[value]
    if not isinstance(value, int) or value < 0:
        raise ValueError(
            "The keyword 'num_returns' only accepts None, a non-negative integer, "
            f"'streaming' (for generators), or 'dynamic', not {value!r}."
        )
    return value


def exception_classes(value: Any) -> bool | tuple[type[BaseException], ...]:
    """The option ``retry_exceptions``, checked.

    Raises:
        TypeError: it holds something else than exception classes.
    """
    if isinstance(value, bool) or value is None:
        return bool(value)
    classes = tuple(value)
    if not all(isinstance(c, type) and issubclass(c, BaseException) for c in classes):
        raise TypeError(
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
            return ANYWHERE  # groups are the matter of `nbray.grouping`
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


def selector_of(options: Mapping[str, Any]) -> tuple[LabelTerm, ...]:
    """The option ``label_selector`` as it travels.

    Raises:
        ValueError: it is malformed.
    """
    return parse_selector(options.get("label_selector") or {})
