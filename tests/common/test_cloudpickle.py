"""How `nbray.cloudpickle` finds what a value is made of: by name, by value, by a reducer."""

from __future__ import annotations

import copyreg
import pickle
import sys
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any

import cloudpickle as library
import pytest

from nbray import cloudpickle


@pytest.fixture
def module() -> Iterator[ModuleType]:
    """A module that this process has and that no other could import."""
    made = ModuleType("module_of_this_test")
    exec("class Point:\n    x = 1\n\ndef double(value):\n    return 2 * value\n", vars(made))
    sys.modules[made.__name__] = made
    yield made
    sys.modules.pop(made.__name__, None)


def _names(data: bytes, module: ModuleType) -> bool:
    return module.__name__.encode() in data and b"def double" not in data and len(data) < 100


@pytest.mark.parametrize("name", ["Point", "double"])
def test_what_its_module_has_travels_by_name(module: ModuleType, name: str) -> None:
    data = cloudpickle.dumps(getattr(module, name))
    assert _names(data, module)
    assert cloudpickle.loads(data) is getattr(module, name)


@pytest.mark.parametrize("name", ["Point", "double"])
def test_what_its_module_has_no_more_travels_by_value(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    setattr(module, name, None)
    assert not _names(cloudpickle.dumps(value), module)


@pytest.mark.parametrize("name", ["Point", "double"])
def test_what_is_registered_by_value_travels_so(module: ModuleType, name: str) -> None:
    value = getattr(module, name)
    cloudpickle.register_pickle_by_value(module)
    try:
        assert not _names(cloudpickle.dumps(value), module)
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert _names(cloudpickle.dumps(value), module)


def test_the_module_of_a_package_that_is_registered_travels_by_value() -> None:
    package, part = ModuleType("package_of_this_test"), ModuleType("package_of_this_test.part")
    exec("def double(value):\n    return 2 * value\n", vars(part))
    sys.modules.update({one.__name__: one for one in (package, part)})
    cloudpickle.register_pickle_by_value(package)
    try:
        data = cloudpickle.dumps(part.double)
    finally:
        cloudpickle.unregister_pickle_by_value(package)
        for one in (package, part):
            del sys.modules[one.__name__]
    assert cloudpickle.loads(data)(4) == 8


class _Odd:
    def __init__(self, value: int) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        raise TypeError("only by a reducer")


@pytest.mark.parametrize("table", [copyreg.dispatch_table, library.CloudPickler.dispatch_table])
def test_reducers_that_are_registered_late_are_used(table: Any) -> None:
    with pytest.raises(TypeError, match="only by a reducer"):
        cloudpickle.dumps(_Odd(3))
    table[_Odd] = lambda odd: (Fraction, (odd.value,))
    try:
        assert pickle.loads(cloudpickle.dumps(_Odd(3))) == Fraction(3)
    finally:
        del table[_Odd]
    with pytest.raises(TypeError, match="only by a reducer"):
        cloudpickle.dumps(_Odd(3))


def test_an_instance_of_a_class_of_no_module() -> None:
    nameless = type("Nameless", (), {"__module__": None})
    value: Any = nameless()
    value.x = 5
    assert cloudpickle.loads(cloudpickle.dumps(value)).x == 5


@pytest.mark.parametrize(
    "value", [int, type(None), type(...), ModuleType, len, Fraction, list[int]]
)
def test_what_python_itself_has_is_the_same_after(value: Any) -> None:
    assert cloudpickle.loads(cloudpickle.dumps(value)) == value
