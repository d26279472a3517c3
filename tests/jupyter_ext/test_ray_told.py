"""What a cell on Ray raised, as it travels; needs no Ray."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator

import pytest

from nbray import cloudpickle
from nbray.ray_engine.told import TITLE, ToldError, as_told


class _Two(Exception):
    """Does not take its ``args`` back."""

    def __init__(self, text: str, other: int) -> None:
        super().__init__(text)
        self.other = other


class _Odd(Exception):
    def __str__(self) -> str:
        return "x\ud800"


class _NoNotes(list[str]):
    def __iter__(self) -> Iterator[str]:
        raise RuntimeError("not these")


class _Broken(Exception):
    __notes__ = _NoNotes()


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as found:
        return found


def test_a_cause_has_all_its_frames() -> None:
    try:
        try:
            _raised_deep()
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as error:
        told = as_told(error)
        hidden = as_told(_raised_hiding(error))
    assert isinstance(told, ToldError)
    assert "in test_a_cause_has_all_its_frames" in told.text.partition("direct cause")[0]
    assert "in _raised_deep" in told.text and "KeyError: 'first'" in told.text
    original = pickle.loads(cloudpickle.dumps(told)).original()
    assert type(original) is ValueError and type(original.__cause__) is KeyError
    assert not isinstance(hidden, ToldError)


def _raised_deep() -> None:
    raise KeyError("first")


def _raised_hiding(other: Exception) -> Exception:
    try:
        try:
            raise other
        except ValueError:
            raise TypeError("alone") from None
    except TypeError as error:
        return error


def test_a_text_that_nobody_reads_is_cut_before_ray_has_it() -> None:
    told = as_told(_raised(ValueError("e" * 20_000_000)))
    assert isinstance(told, ToldError)
    assert len(str(told)) < 100_000 and len(told.text) < 100_000 and "characters ..." in told.text
    original = pickle.loads(cloudpickle.dumps(told)).original()
    assert original is not None and len(original.args[0]) == 20_000_000


def test_what_ray_can_bring_stays_as_it_is() -> None:
    error = _raised(ValueError("plain"))
    assert as_told(error) is error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (_Two("why", 5), "_Two: why"),
        (_Odd(), r"_Odd: x\ud800"),
        (_Broken(), "_Broken: <it cannot be shown: RuntimeError('not these')>"),
        (ValueError("a\ud800b"), r"ValueError: a\ud800b"),
        (ValueError(threading.Lock()), "ValueError: <unlocked _thread.lock"),
    ],
)
def test_another_stands_for_what_it_cannot_with_its_text_class_and_frames(
    error: Exception, said: str
) -> None:
    told = as_told(_raised(error))
    assert isinstance(told, ToldError) and told.__traceback__ is error.__traceback__
    assert said in str(told) and str(told).isprintable()
    there = pickle.loads(cloudpickle.dumps(told))
    assert str(there) == str(told)
    original = there.original()
    assert type(original) is type(error) and vars(original) == vars(error)
    assert TITLE.endswith("ToldError: ")
