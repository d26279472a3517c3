"""What is large, or much at once, travels in parts or by the store, or fails its own call only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray
from nbray.exceptions import TaskError
from nbray.testing import wait_until

MB = 1 << 20
SMALL = 90_000  # below what goes to the store


@pytest.fixture
def narrow(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster whose frames hold 4 MB: what is large for it takes little time."""
    monkeypatch.setenv("NBRAY_MAX_FRAME_BYTES", str(4 * MB))
    monkeypatch.setenv("NBRAY_MAX_INLINE_ARGUMENTS_BYTES", str(2 * MB))
    nbray.init(num_cpus=2, object_store_memory=200 * MB)


@nbray.remote
def size(value: Any) -> int:
    return len(value)


@nbray.remote(num_cpus=0)
class Holder:
    """An actor that takes and gives what is large."""

    def __init__(self, value: Any = (), go: Path | None = None) -> None:
        self.value = value
        if go is not None:
            wait_until(go.exists, "the word to go on")

    def size(self, *values: Any) -> int:
        return sum(map(len, values))

    def held(self) -> int:
        return len(self.value)

    def fail(self, size: int) -> None:
        raise BigError("too bad", np.ones(size, dtype=np.uint8))


class BigError(Exception):
    """An exception that carries data."""


BIG: list[tuple[str, Any]] = [
    ("a dict of an array", {"rows": np.zeros(6 * MB, dtype=np.uint8)}),
    ("a list of texts", ["x" * 1000] * 1 + [f"{i:01000d}" for i in range(6000)]),
    ("a text", "é" * (3 * MB)),
]


@pytest.mark.parametrize(("what", "value"), BIG, ids=[what for what, _ in BIG])
def test_an_argument_is_as_large_as_its_pickle(narrow: None, what: str, value: Any) -> None:
    holder = Holder.remote(value)
    assert nbray.get(size.remote(value), timeout=30) == len(value), what
    assert nbray.get(holder.size.remote(value, value), timeout=30) == 2 * len(value)
    assert nbray.get(holder.held.remote(), timeout=30) == len(value)
    assert nbray.get(size.remote([1]), timeout=30) == 1


def test_many_arguments_of_one_task_that_are_large_together(narrow: None) -> None:
    holder = Holder.remote()
    values = [bytes([i]) * SMALL for i in range(100)]
    assert nbray.get(holder.size.remote(*values), timeout=30) == 100 * SMALL
    refs = [nbray.put(value) for value in values]
    assert nbray.get(holder.size.remote(*refs), timeout=30) == 100 * SMALL
    later = [nbray.remote(lambda: bytes(SMALL)).remote() for _ in range(60)]
    assert nbray.get(holder.size.remote(*later), timeout=60) == 60 * SMALL


def test_many_calls_that_wait_for_their_actor(narrow: None, tmp_path: Path) -> None:
    holder = Holder.remote((), tmp_path / "go")
    calls = [holder.size.remote(bytes(SMALL)) for _ in range(100)]
    (tmp_path / "go").touch()
    assert nbray.get(calls, timeout=60) == [SMALL] * 100
    assert nbray.get(holder.size.remote(b"x"), timeout=30) == 1


def test_many_values_that_one_task_asks_its_owner_for(narrow: None) -> None:
    @nbray.remote
    def total(refs: list[Any]) -> int:
        return sum(map(len, nbray.get(refs)))

    refs = [nbray.put(bytes([i]) * SMALL) for i in range(100)]
    assert nbray.get(total.remote(refs), timeout=60) == 100 * SMALL


def test_many_returns_that_are_large_together(narrow: None) -> None:
    @nbray.remote
    def many(count: int) -> list[bytes]:
        return [bytes([i]) * SMALL for i in range(count)]

    values = nbray.get(many.options(num_returns=100).remote(100), timeout=60)
    assert [value[0] for value in values] == list(range(100))

    @nbray.remote
    def stream() -> Iterator[bytes]:
        for i in range(100):
            yield bytes([i]) * SMALL

    items = stream.options(num_returns="streaming").remote()
    assert [nbray.get(item)[0] for item in items] == list(range(100))


def test_an_error_of_a_task_with_many_returns_travels_once(narrow: None) -> None:
    @nbray.remote(max_retries=0)
    def fail() -> None:
        raise ValueError("x" * 50_000)

    refs = fail.options(num_returns=200).remote()
    for ref in (refs[0], refs[199]):
        with pytest.raises(ValueError, match="xxxx"):
            nbray.get(ref, timeout=30)


def test_a_large_exception_arrives_and_harms_nobody(narrow: None, tmp_path: Path) -> None:
    @nbray.remote(retry_exceptions=False)
    def fail(size: int) -> None:
        with open(tmp_path / "runs", "a") as runs:
            runs.write("x")
        raise BigError("too bad", np.ones(size, dtype=np.uint8))

    holder = Holder.remote()
    for ref in (fail.remote(6 * MB), holder.fail.remote(6 * MB)):
        with pytest.raises(BigError) as raised:
            nbray.get(ref, timeout=30)
        assert raised.value.args[1].sum() == 6 * MB
    assert (tmp_path / "runs").read_text() == "x"
    assert nbray.get(holder.size.remote(b"x"), timeout=30) == 1

    @nbray.remote
    def text() -> None:
        raise ValueError("y" * 6 * MB)

    with pytest.raises(TaskError, match="characters") as shown:
        nbray.get(text.remote(), timeout=30)
    assert len(str(shown.value)) < MB


def test_a_large_exception_in_a_stream_or_of_many_values_is_told(narrow: None) -> None:
    @nbray.remote(max_retries=0)
    def stream() -> Iterator[int]:
        yield 1
        raise BigError("too bad", np.ones(6 * MB, dtype=np.uint8))

    first, second = stream.options(num_returns="streaming").remote()
    assert nbray.get(first) == 1
    with pytest.raises(TaskError, match="BigError"):
        nbray.get(second, timeout=30)


def test_what_can_never_travel_fails_its_own_call_with_its_size_and_name(narrow: None) -> None:
    from nbray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

    with pytest.raises(ValueError, match="A key and its value may have"):
        _internal_kv_put("key", b"x" * (5 * MB))
    assert _internal_kv_put("key", b"value") is False
    assert _internal_kv_get("key") == b"value"
    many = [nbray.put(i) for i in range(150_000)]  # the refs alone are too much for a message
    with pytest.raises(ValueError, match="PushTask of"):
        nbray.get(size.remote(many), timeout=30)
    assert nbray.get(size.remote([1]), timeout=30) == 1


def test_displays_and_lines_that_are_large_together(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_MAX_FRAME_BYTES", str(40 * MB))
    nbray.init(num_cpus=1)
    from nbray.core_worker.current import find_core
    from nbray.wire.watching_messages import OutputDisplay

    @nbray.remote
    def show() -> int:
        from nbray.core_worker.run.output import current_output

        output = current_output()
        assert output is not None
        for _ in range(5):
            output.display("display_data", {"data": {"text/plain": "x" * (20 * MB)}})
        output.display("display_data", {"data": {"text/plain": "y" * (60 * MB)}})
        return 1

    core = find_core()
    assert core is not None
    sizes: list[int] = []
    core.on_output = lambda output: (
        sizes.append(len(output.content)) if isinstance(output, OutputDisplay) else None
    )
    assert nbray.get(show.remote(), timeout=60) == 1
    wait_until(lambda: len(sizes) == 6, "all displays")
    assert min(sizes[:5]) > 20 * MB
    assert sizes[5] < MB
