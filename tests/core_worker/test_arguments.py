"""Arguments to bytes and back: marshalled where they are plain, pickled where they are not."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from nbray.common.config import Config
from nbray.core_worker.values.arguments import opened, pack
from nbray.core_worker.values.serialization import Serialized
from nbray.object_ref import ObjectRef
from nbray.wire.records import Address


def _none(object_id: bytes, owner: Address) -> ObjectRef:
    raise AssertionError(f"no ref stands in it: {object_id!r} of {owner}")


class Nobody:
    """A process that puts nothing."""

    config = Config()

    def put(self, value: Any, packed: Serialized | None = None) -> ObjectRef:
        raise AssertionError(f"put({value!r})")

    def note(self, object_ids: Iterable[bytes], change: int) -> None:
        assert not list(object_ids)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1, -(2**200), True, None), {}),
        (("lone \ud800 surrogate", "", "\0é"), {"name with space": b"\0\xff"}),
        ((math.inf, -0.0, 1e-320), {"x": 0.1}),
        (([1, (2, {3})],), {"y": {"z": frozenset()}}),
    ],
)
def test_arguments_come_back_as_they_were(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    packed, dependencies, contained = pack(Nobody(), args, kwargs)
    assert not dependencies and not contained
    back, named = opened(packed, _none, ())
    assert back == list(args) and named == kwargs
    assert [type(value) for value in back] == [type(value) for value in args]


def test_plain_arguments_take_few_bytes_and_a_subclass_of_a_plain_type_stays_one() -> None:
    class Number(int):
        pass

    assert len(pack(Nobody(), (5,), {})[0]) < 16
    (back,), _ = opened(pack(Nobody(), (Number(5),), {})[0], _none, ())
    assert type(back).__name__ == "Number" and back == 5
