"""Context variables in tasks and actors: which are the same, and how long a value stays."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray import cloudpickle

WITH_DEFAULT: ContextVar[Any] = ContextVar("with", default=("x", 1))
WITHOUT: ContextVar[Any] = ContextVar("without")


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


def local(name: str) -> Any:
    """Functions of one variable that travels by value, as those of a notebook do."""
    variable: ContextVar[Any] = ContextVar(name, default=None)

    class Plain:
        def set(self, value: Any) -> None:
            variable.set(value)

        def get(self) -> Any:
            return variable.get()

    class Async:
        async def set_and_wait(self, value: Any) -> Any:
            variable.set(value)
            await asyncio.sleep(0.05)
            return variable.get()

        async def get(self) -> Any:
            return variable.get()

    return Plain, Async


def test_a_variable_is_the_same_wherever_it_comes_from() -> None:
    for variable in (WITH_DEFAULT, WITHOUT):
        assert cloudpickle.loads(cloudpickle.dumps(variable)) is variable


def test_defaults_travel_and_values_do_not(module_cluster: Path) -> None:
    WITHOUT.set("of the driver")

    @nbray.remote
    def look() -> tuple[Any, Any]:
        return WITH_DEFAULT.get(), WITHOUT.get("nothing")

    assert nbray.get(look.remote()) == (("x", 1), "nothing")


def test_a_plain_actor_keeps_a_value_and_calls_of_an_async_one_are_apart(
    module_cluster: Path,
) -> None:
    plain_class, async_class = local("kept")
    plain = nbray.remote(num_cpus=0)(plain_class).remote()
    nbray.get(plain.set.remote(5))
    assert nbray.get(plain.get.remote()) == 5
    apart = nbray.remote(num_cpus=0)(async_class).remote()
    assert nbray.get([apart.set_and_wait.remote(i) for i in range(5)]) == list(range(5))
    assert nbray.get(apart.get.remote()) is None
