"""Which code a call of an actor runs, where it runs, and what comes back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray


@nbray.remote(num_cpus=0)
class Shadowed:
    """Its attributes have the names of its methods."""

    made_by = staticmethod(lambda: "static")

    def __init__(self) -> None:
        self.called: Any = False
        self.made_by: Any = None  # type: ignore[assignment]

    def called(self) -> str:
        self.called = True
        return "method"

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    def attributes(self) -> Any:
        return self.called, self.made_by

    def __enter__(self) -> str:
        return "entered"

    def __call__(self, value: int) -> int:
        return value

    def ref(self) -> nbray.ObjectRef:
        return nbray.put("value")


@nbray.remote(num_cpus=0, concurrency_groups={"io": 2, "compute": 1})
class Grouped:
    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.made_in = threading.get_ident()

    @nbray.method(concurrency_group="io")
    async def io(self) -> int:
        return threading.get_ident()

    @nbray.method(concurrency_group="compute")
    async def blocks(self) -> bool:
        return self.go_on.wait(60)

    async def default(self) -> tuple[int, int]:
        return self.made_in, threading.get_ident()

    @nbray.method(concurrency_group="io")
    def release(self) -> None:
        self.go_on.set()

    def ref(self) -> nbray.ObjectRef:
        return nbray.put("value")

    async def awaited(self) -> str:
        return await nbray.put("value")


@nbray.remote(num_cpus=0)
class SlowlyMade:
    async def __init__(self, start: int, *, step: int = 1) -> None:
        self.value = await nbray.put(start) + step

    def get(self) -> int:
        return self.value


@nbray.remote(num_cpus=0)
class NeverMade:
    async def __init__(self) -> None:
        raise ValueError("not today")

    async def get(self) -> None: ...


def test_calls_find_their_method_and_its_group_and_values_stay_values(cluster: Path) -> None:
    shadowed = Shadowed.remote()
    # The class has the methods; what the instance has of the same names are attributes.
    assert nbray.get([shadowed.called.remote() for _ in range(2)]) == ["method"] * 2
    assert nbray.get(shadowed.made_by.remote()) == "static"
    assert nbray.get(shadowed.name.remote()) == "Shadowed"
    assert nbray.get(shadowed.attributes.remote()) == (True, None)
    assert nbray.get(shadowed.__enter__.remote()) == "entered"
    assert nbray.get(shadowed.__call__.remote(3)) == 3
    assert not hasattr(shadowed, "__len__")
    assert "called" in dir(Shadowed)

    grouped = Grouped.remote()
    # A ref that a plain method returns is its value, of whatever actor.
    for actor in (shadowed, grouped):
        ref = nbray.get(actor.ref.remote())
        assert isinstance(ref, nbray.ObjectRef)
        assert nbray.get(ref) == "value"
    assert nbray.get(grouped.awaited.remote()) == "value"

    # What blocks in one group of an async actor does not block the others, nor the default one.
    blocked = grouped.blocks.remote()
    made_in, default = nbray.get(grouped.default.remote(), timeout=30)
    assert made_in == default != nbray.get(grouped.io.remote(), timeout=30)
    nbray.get(grouped.release.remote(), timeout=30)
    assert nbray.get(blocked, timeout=30) is True

    assert nbray.get(SlowlyMade.remote(5, step=2).get.remote()) == 7
    try:
        nbray.get(NeverMade.remote().get.remote())
    except nbray.exceptions.ActorDiedError as error:
        assert "not today" in str(error)
    else:
        raise AssertionError("an actor lives whose constructor failed")


@nbray.remote(num_cpus=0, concurrency_groups={"io": 1})
class Pooled:
    def get(self) -> str:
        return "value"


@nbray.remote(num_cpus=0)
class Plain:
    def get(self) -> str:
        return "value"

    def items(self) -> Iterator[str]:
        yield "value"


def test_a_call_in_a_group_that_the_actor_has_not_says_which_it_has(cluster: Path) -> None:
    """In Ray, it is the end of the actor."""
    grouped, pooled, plain = Grouped.remote(), Pooled.remote(), Plain.remote()
    for method, groups in (
        (grouped.default, "compute', 'io"), (pooled.get, "'io'"), (plain.get, "[]"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="group 'oi' is not defined; the groups of") as caught:
            nbray.get(method.options(concurrency_group="oi").remote(), timeout=30)
        assert groups in str(caught.value)
    with pytest.raises(ValueError, match="group 'oi' is not defined"):
        for item in plain.items.options(concurrency_group="oi").remote():
            nbray.get(item, timeout=30)
    assert nbray.get([pooled.get.remote(), plain.get.remote()], timeout=30) == ["value"] * 2
    assert nbray.get(pooled.get.options(concurrency_group="io").remote(), timeout=30) == "value"
