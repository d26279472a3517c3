"""A notebook's parts that look at the cluster for ever, while that does not answer for a moment."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest

from nbray.exceptions import LocalRayletDiedError, NbrayError
from nbray.jupyter_ext.commands import stream as command
from nbray.jupyter_ext.kept import keeper as keeping
from nbray.jupyter_ext.kept.keeper import Keeper
from nbray.jupyter_ext.pictures.task_stream import Stream, stream
from nbray.notebook import FunctionCounts

AWAY = NbrayError("The GCS does not answer.")
LOST = LocalRayletDiedError("It has ended.")


def counts(unfinished: int) -> list[FunctionCounts]:
    return [SimpleNamespace(origin=1, unfinished=unfinished)]  # type: ignore[list-item]


@pytest.mark.parametrize("silence", [AWAY, OSError(24, "Too many open files"), None])
def test_a_stream_goes_on_after_a_cluster_that_did_not_answer(
    monkeypatch: pytest.MonkeyPatch, silence: Exception | None
) -> None:
    answers = iter([counts(1), silence or [], counts(1), counts(0)])
    shown: list[str] = []

    def counts_now(_seconds: float) -> list[FunctionCounts]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def look(_number: int, _label: str, now: list[FunctionCounts]) -> Stream:
        return stream(f"{now[0].unfinished} left", [], 0.0)

    monkeypatch.setattr(command, "counts_now", counts_now)
    monkeypatch.setattr(command, "_look", look)
    monkeypatch.setattr(command, "_PERIOD_S", 0.0)
    api = SimpleNamespace(is_initialized=lambda: True)
    monkeypatch.setattr(command, "engine", lambda: SimpleNamespace(api=api))
    command._follow(1, "In [1]", stream("", [], 0.0), lambda newer: shown.append(newer.label))
    assert shown == ["1 left", "0 left"]


def keeper_with_a_tied_cell(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Keeper:
    def list_jobs() -> None:
        raise error

    state = SimpleNamespace(list_jobs=list_jobs)
    monkeypatch.setattr(keeping, "engine", lambda: SimpleNamespace(state=state))
    keeper = Keeper.__new__(Keeper)
    keeper._cells = {"one": SimpleNamespace(tied="01")}  # type: ignore[dict-item]
    keeper._looked = time.monotonic() - 60.0
    return keeper


@pytest.mark.parametrize("error", [AWAY, OSError(24, "Too many open files")])
def test_a_keeper_keeps_tied_cells_while_nobody_says_which_notebooks_live(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    keeper = keeper_with_a_tied_cell(monkeypatch, error)
    keeper._end_with_notebooks()
    assert list(keeper._cells) == ["one"]


def test_a_keeper_whose_raylet_has_ended_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LocalRayletDiedError):
        keeper_with_a_tied_cell(monkeypatch, LOST)._end_with_notebooks()
