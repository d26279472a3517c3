"""An exception that is too large for a message is one of its class, with its arrays."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.nodes import MB

import nbray
from nbray.testing import wait_until


class BadRows(Exception):
    def __init__(self, rows: np.ndarray) -> None:
        super().__init__("negative values", rows)
        self.rows = rows


def fail(megabytes: int) -> None:
    raise BadRows(np.ones(megabytes * MB, dtype=np.uint8))


@nbray.remote(max_retries=0)
def stream(megabytes: int) -> Iterator[int]:
    yield 1
    fail(megabytes)


def size(ref: nbray.ObjectRef) -> int:
    with pytest.raises(BadRows) as caught:
        nbray.get(ref, timeout=30)
    assert caught.value.args[0] == "negative values"
    return int(caught.value.rows.nbytes) // MB


def nothing_is_left() -> None:
    def freed() -> bool:
        gc.collect()  # tracebacks hold frames, also of threads that let go of them later
        return nbray.nodes()[0]["Stats"]["objects"] == 0

    wait_until(freed, "the errors to be freed")


def test_all_objects_of_a_task_have_its_large_error_once(cluster: Path) -> None:
    first, *others = nbray.remote(num_returns=3, max_retries=0)(fail).remote(12)
    assert [size(ref) for ref in others] == [12, 12]
    wait_until(lambda: nbray.nodes()[0]["Stats"]["objects"] == 1, "one error to be stored")
    del first
    other = others.pop()
    others.clear()
    with pytest.raises(BadRows):
        nbray.get(nbray.remote(id).remote(other), timeout=30)
    assert isinstance(other.future().exception(timeout=30), BadRows)

    async def wait(ref: nbray.ObjectRef) -> None:
        await ref

    with pytest.raises(BadRows):
        asyncio.run(wait(other))
    del other
    nothing_is_left()


def test_a_stream_ends_with_a_large_error(cluster: Path) -> None:
    refs = stream.remote(12)
    assert nbray.get(next(refs), timeout=30) == 1
    assert [size(next(refs)), size(refs.completed())] == [12, 12]
    with pytest.raises(StopIteration):
        next(refs)
    one, error, same = stream.options(num_returns=3).remote(12)
    assert nbray.get(one, timeout=30) == 1 and [size(error), size(same)] == [12, 12]
    dynamic = list(nbray.get(stream.options(num_returns="dynamic").remote(12), timeout=30))
    assert nbray.get(dynamic[0]) == 1 and size(dynamic[1]) == 12
    del refs, one, error, same, dynamic
    nothing_is_left()


@pytest.mark.parametrize("error", [BadRows, KeyError])
def test_a_large_error_is_asked_for_its_class(
    cluster: Path, tmp_path: Path, error: type[Exception]
) -> None:
    @nbray.remote(max_retries=5, retry_exceptions=[error])
    def flaky(runs: Path) -> int:
        with runs.open("a") as file:
            file.write("x")
        if len(runs.read_text()) < 3:
            fail(12)
        return 7

    ref = flaky.remote(tmp_path / "runs")
    if error is BadRows:
        assert nbray.get(ref, timeout=30) == 7
        nothing_is_left()
    else:
        assert size(ref) == 12 and (tmp_path / "runs").read_text() == "x"
