"""The options of tasks and actors: one table, read by `remote` and by `.options`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbray.common.resources import to_units


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
    "num_returns": Option((int,), 1, True, False, "how many values the task returns"),
    "max_retries": Option((int,), 3, True, False, "runs again after a worker died; -1: always"),
    "retry_exceptions": Option((bool,), False, True, False, "run again after an exception"),
    "name": Option((str,), None, True, True, "a name to show, or to find an actor by"),
    "namespace": Option((str,), None, False, True, "the namespace of an actor's name"),
    "lifetime": Option((str,), None, False, True, "'detached' actors outlive their driver"),
    "get_if_exists": Option((bool,), False, False, True, "use the actor of that name"),
    "max_restarts": Option((int,), 0, False, True, "restarts after a crash; -1: always"),
    "max_task_retries": Option((int,), 0, False, True, "repeats of calls after a crash"),
    "max_concurrency": Option((int,), 0, False, True, "calls at the same time"),
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
    return dict(given)


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
    return to_units(custom)
