"""A failure's frames as data: taken where they are, walked by a debugger where they arrive."""

from __future__ import annotations

import dataclasses
import io
import pdb
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pytest

from nbray.debugging.copying import keep
from nbray.debugging.pictures import decode, encode
from nbray.debugging.rebuilding import opened, remember_sources, traceback_of
from nbray.debugging.showing import short
from nbray.debugging.taking import Limits, take

LIMITS = Limits(seconds=60.0)  # copies take long on a busy machine
FACTOR = 3


def failing(first: Any, /, second: int = 2, *rest: int, only: int = 4, **more: Any) -> Any:
    inner = [first, second]

    def closure() -> Any:
        return inner[5] * FACTOR

    return closure()


def raised_by(call: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as found:
        call()
    return found.value


def walked(error: BaseException, limits: Limits = LIMITS) -> Iterator[TracebackType]:
    """The frames of a picture that travelled, of this module."""
    picture = decode(encode(take(error, limits)))
    remember_sources(picture)
    values = opened(picture.values, lambda module: {})
    tb = traceback_of(picture.chain[0].frames, values, lambda module: {})
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == __file__:
            yield tb
        tb = tb.tb_next


def test_each_frame_has_its_name_line_arguments_names_and_globals() -> None:
    frames = list(walked(raised_by(lambda: failing("x", 1, 7, 8, only=5, key="k"))))
    outer, inner = frames[-2:]
    assert [outer.tb_frame.f_code.co_name, inner.tb_frame.f_code.co_name] == ["failing", "closure"]
    seen = dict(outer.tb_frame.f_locals)
    assert (seen["first"], seen["second"], seen["rest"]) == ("x", 1, (7, 8))
    assert (seen["only"], seen["more"], seen["inner"]) == (5, {"key": "k"}, ["x", 1])
    assert inner.tb_frame.f_locals["inner"] == ["x", 1]
    assert inner.tb_frame.f_globals["FACTOR"] == 3
    assert eval("FACTOR * len(inner)", inner.tb_frame.f_globals, inner.tb_frame.f_locals) == 6
    assert inner.tb_lineno == inner.tb_frame.f_lineno


def test_pdb_walks_them_with_source_arguments_and_expressions() -> None:
    picture = take(raised_by(lambda: failing("x")), LIMITS)
    values = opened(picture.values, lambda module: {})
    tb = traceback_of(picture.chain[0].frames, values, lambda module: {})
    said = io.StringIO()
    debugger = pdb.Pdb(
        stdin=io.StringIO("p inner\nup\nargs\nll\np second + only\nq\n"), stdout=said, readrc=False
    )
    debugger.reset()
    debugger.interaction(None, tb)  # type: ignore[arg-type]
    assert "['x', 2]" in said.getvalue()
    assert "second = 2" in said.getvalue()
    assert "only = 4" in said.getvalue()
    assert "def closure() -> Any:" in said.getvalue()
    assert "(Pdb) 6\n" in said.getvalue()


class Hostile:
    def __repr__(self) -> str:
        raise ValueError("not shown")

    def __reduce__(self) -> Any:
        raise ValueError("not pickled")


def test_a_class_that_refuses_to_be_pickled_and_shown_costs_its_own_value_only() -> None:
    def fails() -> None:
        good, bad = [1], Hostile()
        assert not good, bad

    (frame,) = (one.tb_frame for one in list(walked(raised_by(fails)))[-1:])
    assert frame.f_locals["good"] == [1]
    assert repr(frame.f_locals["bad"]).startswith("<Hostile instance at 0x")


def test_a_class_that_hangs_costs_the_time_that_it_may_have() -> None:
    go_on = threading.Event()

    class Hangs:
        def __reduce__(self) -> Any:
            go_on.wait()
            return (int, ())

    def fails() -> None:
        first, hanging, behind = [1], Hangs(), [2]
        raise KeyError(first, hanging, behind)

    try:
        picture = take(raised_by(fails), Limits(seconds=0.05))
    finally:
        go_on.set()
    assert "took longer than 0.05 s" in picture.notes[0]
    assert [frame.function for frame in picture.chain[0].frames][-1] == "fails"


def test_what_is_large_is_shown_in_part_and_the_whole_has_a_bound() -> None:
    def fails() -> None:
        array, text, items = np.zeros(1 << 20), "x" * (1 << 22), list(range(1 << 20))
        many = [bytes(1000) * number for number in range(30)]
        raise KeyError(array, text, items, many)

    data = encode(take(raised_by(fails), Limits(total=100_000, each=20_000, seconds=60.0)))
    assert len(data) < 400_000
    frame = list(walked(raised_by(fails)))[-1].tb_frame
    assert repr(frame.f_locals["array"]) == "array([0., 0., 0., ..., 0., 0., 0.], shape=(1048576,))"
    assert len(repr(frame.f_locals["text"])) < 3000
    assert repr(frame.f_locals["items"]).startswith("[0, 1, 2,")
    with pytest.raises(AttributeError, match="stayed in its worker"):
        _ = frame.f_locals["array"].shape


def test_a_recursion_without_end_has_its_first_and_last_frames() -> None:
    def down(level: int) -> int:
        return down(level + 1)

    picture = take(raised_by(lambda: down(0)), LIMITS)
    assert picture.chain[0].skipped > 100
    assert len(picture.chain[0].frames) == 50


def test_what_led_to_it_has_its_frames_too() -> None:
    def fails() -> None:
        try:
            failing("x")
        except IndexError as error:
            raise ValueError("above") from error

    picture = take(raised_by(fails), LIMITS)
    assert [one.shown for one in picture.chain] == [
        "ValueError('above')",
        "IndexError('list index out of range')",
    ]
    assert picture.chain[1].frames[-1].function == "closure"


def test_a_name_that_was_not_bound_yet_is_not_there() -> None:
    def fails(argument: int) -> None:
        del argument
        unbound = [][1]
        print(unbound)

    frame = list(walked(raised_by(lambda: fails(1))))[-1].tb_frame
    assert not set(frame.f_locals) & {"argument", "unbound"}


@dataclasses.dataclass
class Data:
    items: list[int]


class Pair(NamedTuple):
    left: Any
    right: Any


class Items(list[int]):
    """Shows itself as a list."""


@pytest.mark.parametrize(
    "value",
    [
        Data(list(range(1 << 18))), Pair(list(range(1 << 18)), "x" * (1 << 20)),
        Items(range(1 << 18)), {"k": "\udc80" * 5000}, bytearray(1 << 20), 10**5000,
    ],
    ids=["dataclass", "named tuple", "subclass", "odd text", "bytearray", "number"],
)  # fmt: skip
def test_whatever_is_shown_is_short_text(value: object) -> None:
    shown = short(value, 1000)
    assert len(shown) <= 1010
    shown.encode()


def test_a_handle_is_shown_and_never_pickled() -> None:
    class ObjectRef:
        def __reduce__(self) -> Any:
            raise AssertionError("a pickle would hold it for ever")

    assert keep(ObjectRef(), 1000).how == "text"
    assert keep([ObjectRef()], 1000).how == "text"
