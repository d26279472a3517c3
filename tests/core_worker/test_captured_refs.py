"""Refs that stand in functions, in classes, and in pickles that programs make themselves."""

from __future__ import annotations

import copy
import gc
import pickle
import time
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

import nbray
from nbray.calls.function_pickles import new_epoch
from nbray.driver.driver import current_core
from nbray.testing import wait_until

_BIG = 200_000  # bytes: such a value lies in the object store


@nbray.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


def is_known(object_id: bytes) -> bool:
    return current_core().table.get(object_id) is not None


def test_functions_and_classes_capture_refs_and_handles(cluster: Path) -> None:
    values, counter = nbray.put(np.arange(_BIG // 8)), Counter.remote()

    @nbray.remote
    def total() -> int:
        nbray.get(counter.add.remote())
        return int(nbray.get(values).sum())

    @nbray.remote
    class Total:
        def total(self) -> int:
            nbray.get(counter.add.remote())
            return int(nbray.get(values).sum())

    expected = int(np.arange(_BIG // 8).sum())
    assert nbray.get([total.remote(), total.remote()], timeout=30) == [expected] * 2
    assert nbray.get(Total.remote().total.remote(), timeout=30) == expected
    assert nbray.get(counter.add.remote(), timeout=30) == 4


def test_a_queued_task_holds_what_its_function_captures(cluster: Path, tmp_path: Path) -> None:
    gate, value = Counter.remote(), nbray.put(np.ones(_BIG // 8))
    object_id = value.binary()

    def make(ref: nbray.ObjectRef) -> nbray.remote_function.RemoteFunction:
        @nbray.remote
        def later(_after: object) -> float:
            return float(nbray.get(ref).sum())

        return later

    @nbray.remote
    def wait_for(path: str) -> None:
        while not Path(path).exists():
            time.sleep(0.01)

    opened = tmp_path / "opened"
    later = make(value)
    result = later.remote(wait_for.remote(str(opened)))
    del later, value
    new_epoch()
    gc.collect()
    assert nbray.get(gate.add.remote(), timeout=30) == 1  # so the refs' deaths have been counted
    assert is_known(object_id)
    opened.touch()
    assert nbray.get(result, timeout=30) == _BIG // 8


def test_what_a_function_captures_is_let_go_with_it(cluster: Path) -> None:
    def capture() -> bytes:
        value = nbray.put(1)

        @nbray.remote
        def unused() -> int:
            return nbray.get(value)

        unused._pickle.get()
        return value.binary()

    object_id = capture()
    gc.collect()
    wait_until(lambda: not is_known(object_id), "the end of the captured object")


def test_a_ref_that_a_program_pickles_lives_as_long_as_its_process(cluster: Path) -> None:
    @nbray.remote
    class Maker:
        def pickled(self) -> bytes:
            return cloudpickle.dumps({"ref": nbray.put("made there")})

    maker = Maker.remote()
    data = nbray.get(maker.pickled.remote(), timeout=30)
    assert nbray.get(pickle.loads(data)["ref"], timeout=30) == "made there"

    ref = nbray.put("made here")
    data = pickle.dumps(ref)
    del ref
    gc.collect()
    assert nbray.get(pickle.loads(data), timeout=30) == "made here"
    assert nbray.get(maker.__ray_call__.remote(lambda _self: nbray.get(pickle.loads(data)))) == (
        "made here"
    )


def test_copies_of_a_ref_are_the_ref(cluster: Path) -> None:
    ref = nbray.put(1)
    object_id = ref.binary()
    copies = [copy.copy(ref), *copy.deepcopy([ref])]
    assert copies == [ref, ref]
    del ref, copies
    wait_until(lambda: not is_known(object_id), "the end of the copied ref")


def test_a_ref_cannot_be_unpickled_outside_of_a_cluster(cluster: Path) -> None:
    data = pickle.dumps(nbray.put(1))
    nbray.shutdown()
    with pytest.raises(RuntimeError, match=r"call nbray\.init"):
        pickle.loads(data)
