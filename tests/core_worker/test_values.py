"""Values that come back: whose they are, what they share, and what of them is stored."""

from __future__ import annotations

import io
import subprocess
import sys
import time
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray import cloudpickle
from nbray.core_worker.values.serialization import deserialize, serialize
from nbray.testing import Gate, wait_until
from nbray.util.state import list_demand


@nbray.remote
def added(array: np.ndarray) -> np.ndarray:
    array += 1
    return array


def test_small_arrays_are_the_readers_own_and_large_ones_are_views(cluster: Path) -> None:
    ref = nbray.put(np.zeros(5))
    first, second = nbray.get([ref, ref])
    first[0] = 9
    assert second[0] == 0 and nbray.get(ref)[0] == 0
    assert nbray.get(added.remote(ref), timeout=30).sum() == 5
    assert nbray.get(added.remote(np.zeros(5)), timeout=30).sum() == 5
    large = nbray.get(nbray.put(np.zeros(100_000)))
    with pytest.raises(ValueError, match="read-only"):
        large[0] = 9
    with pytest.raises(ValueError, match="read-only"):
        nbray.get(added.remote(np.zeros(100_000)), timeout=30)

    read_only = np.zeros(5)
    read_only.flags.writeable = False  # whoever asked for that gets it
    assert not nbray.get(nbray.put(read_only)).flags.writeable

    import pandas as pd

    frame = nbray.get(nbray.put(pd.DataFrame({"a": [1, 2]})))
    frame.loc[0, "a"] = 9
    assert frame["a"].tolist() == [9, 2]


def test_a_figure_of_a_task_can_be_drawn(cluster: Path) -> None:
    @nbray.remote
    def plot() -> Any:
        from matplotlib.figure import Figure

        figure = Figure()
        figure.subplots().plot([1, 2, 3])
        return figure

    image = io.BytesIO()
    nbray.get(plot.remote(), timeout=60).savefig(image)
    assert image.getvalue().startswith(b"\x89PNG")


def test_a_get_that_is_answered_at_once_gives_no_cpu_away(
    session_root: Path, tmp_path: Path
) -> None:
    nbray.init(num_cpus=1)

    @nbray.remote
    def reads(refs: list[nbray.ObjectRef], gate: Gate, began: Path) -> bool:
        from nbray.core_worker.values import reading

        reading._ANSWER_S = 60.0  # so long an owner may be busy here, and answers at once
        gate.wait_here()
        nbray.get(refs)
        deadline = time.monotonic() + 1.5
        while not began.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return began.exists()

    @nbray.remote(memory=1)  # in a lease of its own
    def begins(began: Path) -> None:
        began.touch()

    gate, began = Gate(tmp_path), tmp_path / "began"
    reading = reads.remote([nbray.put(i) for i in range(10)], gate, began)
    gate.wait_for(1)
    waits = begins.remote(began)
    wait_until(lambda: bool(list_demand()), "the raylet to know of it")
    gate.open()
    assert nbray.get([reading, waits], timeout=100) == [False, None]


def test_refs_are_of_something() -> None:
    def typed(ref: nbray.ObjectRef[int]) -> nbray.ObjectRef[str]: ...  # type: ignore[type-arg]

    assert str(typing.get_type_hints(typed)["ref"]).endswith("ObjectRef[int]")


PROGRAM = """
import multiprocessing, pickle
import nbray

class Point:
    def __init__(self, x):
        self.x = x

@nbray.remote
def pickled(point):
    again = pickle.loads(pickle.dumps(point))
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return type(again) is type(point) and pool.map(abs, [-1]) and pool.map(len, [[point]])

@nbray.remote
def missing():
    import __main__
    return __main__.nowhere

nbray.init(num_cpus=1)
print(nbray.get(pickled.remote(Point(3))))
try:
    nbray.get(missing.remote())
except AttributeError as error:
    print(error.cause)
"""


def test_an_object_of_the_program_can_be_pickled_by_name_in_a_task(session_root: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    told = "module '__main__' of this worker has no attribute 'nowhere'"
    assert ran.stdout.splitlines() == ["[1]", told], ran.stderr


def test_a_slice_of_arrow_is_stored_without_the_rest() -> None:
    import pandas as pd

    pa = pytest.importorskip("pyarrow")
    numbers, words = np.arange(100_000), ["abc"] * 100_000
    table = pa.table({"n": numbers, "s": words, "l": [[1, 2]] * 100_000})
    table = table.replace_schema_metadata({"made": "here"})
    words = table["s"].chunk(0).dictionary_encode()
    batch = table.to_batches()[0]
    for whole in (table, batch, table["n"], table["l"].chunk(0), words):
        for part in (whole, whole.slice(70_000, 100), whole.slice(5, 0)):
            packed = serialize(part)
            again = deserialize(packed.to_bytes(), None)
            assert type(again) is type(part) and again.equals(part)
            assert part is whole or packed.size < 10_000
            assert cloudpickle.loads(cloudpickle.dumps(part)).equals(part)
    assert deserialize(serialize(table.slice(3, 5)).to_bytes(), None).schema.metadata
    frame = pd.DataFrame({"s": pd.array(["abc"] * 100_000, dtype="string[pyarrow]")})
    assert serialize(frame.iloc[:50]).size < 10_000
    assert deserialize(serialize(pa.scalar(3)).to_bytes(), None).as_py() == 3
