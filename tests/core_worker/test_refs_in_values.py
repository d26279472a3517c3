"""Refs that stand in a value: each that is made is counted, and none that is not."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.driver.driver import current_core
from nbray.testing import wait_until


class Sleeps:
    """Keeps a ref as a pickle, which it opens when somebody asks, or at once."""

    def __init__(self, ref: nbray.ObjectRef, at_once: bool) -> None:
        self.ref = ref
        self.at_once = at_once

    def __reduce__(self) -> tuple[Any, ...]:
        return _wake, (pickle.dumps(self.ref), self.at_once)


def _wake(data: bytes, at_once: bool) -> Any:
    return Sleeps(pickle.loads(data), True) if at_once else data


def _refuse() -> None:
    raise RuntimeError("not here")


class Refuses:
    """Cannot be unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _refuse, ()


@nbray.remote
class Maker:
    """Owns what it puts."""

    def several(self) -> list[Any]:
        a, b, c = (nbray.put(i) for i in range(3))
        return [a, Sleeps(b, True), a, c, np.zeros(10), c]

    def one_asleep(self) -> list[Any]:
        return [Sleeps(nbray.put(0), False), nbray.put(1), nbray.put(2)]

    def refuses(self) -> list[Any]:
        return [nbray.put(0), Refuses(), nbray.put(1)]

    def many(self) -> list[nbray.ObjectRef]:
        return [nbray.put(i) for i in range(5000)]


@pytest.fixture(scope="module")
def maker(module_cluster: Path) -> Any:
    return Maker.remote()


def known() -> int:
    """How many objects this process has."""
    gc.collect()
    return len(current_core().table)


def test_refs_are_those_that_were_put_and_go_with_the_value(maker: Any) -> None:
    before = known()
    a, b, again, c, array, other = nbray.get(maker.several.remote())
    assert (a, c) == (again, other) and array.sum() == 0
    assert nbray.get([a, b.ref, c]) == [0, 1, 2]
    del a, again
    assert nbray.get([b.ref, other]) == [1, 2]
    del b, c, array, other
    wait_until(lambda: known() <= before, "the end of all refs")


def test_a_ref_that_stays_pickled_leaves_the_others_theirs(maker: Any) -> None:
    before = known()
    outer = maker.one_asleep.remote()
    for _ in range(3):
        data, one, two = nbray.get(outer)
        assert nbray.get([one, two]) == [1, 2]
    assert nbray.get(pickle.loads(data)) == 0
    del outer, data, one, two
    wait_until(lambda: known() <= before, "the end of all refs")


def test_a_value_that_cannot_be_unpickled_leaves_no_refs(maker: Any) -> None:
    before = known()
    for _ in range(3):
        with pytest.raises(RuntimeError, match="not here"):
            nbray.get(maker.refuses.remote())
    wait_until(lambda: known() <= before, "the end of all refs")


def test_many_refs_are_got_again_and_again_and_each_can_be_read(maker: Any) -> None:
    before = known()
    outer = maker.many.remote()
    for _ in range(3):
        refs = nbray.get(outer)
    last = nbray.get(outer)[-1]
    del refs
    assert nbray.get(last) == 4999
    kept = nbray.get(outer)
    del outer, last
    assert nbray.get(kept[::100]) == list(range(0, 5000, 100))
    del kept
    wait_until(lambda: known() <= before, "the end of all refs")
