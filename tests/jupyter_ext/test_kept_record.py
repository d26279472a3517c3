"""What a detached cell has shown, as a document that a reader follows by its changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.jupyter_ext.kept.handing import NotKeptError, check_name
from nbray.jupyter_ext.kept.record import Limits, Record


def _text(record: Record) -> list[Any]:
    """All that a new reader is shown."""
    return [json.loads(data) for data in record.changes().written.values()]


def _display(text: str, name: str = "") -> dict[str, Any]:
    transient = {"display_id": name} if name else {}
    return {"data": {"text/plain": text}, "metadata": {}, "transient": transient}


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), st.text(max_size=9)), max_size=9))
@settings(max_examples=30)
def test_text_is_kept_in_order_whatever_its_streams(pieces: list[tuple[str, str]]) -> None:
    record = Record(Limits())
    for stream, text in pieces:
        record.take("stream", {"name": stream, "text": text})
    shown = _text(record)
    for stream in ("stdout", "stderr"):
        kept = "".join(c["text"] for _, c in shown if c["name"] == stream)
        assert kept == "".join(text for name, text in pieces if name == stream)


def test_a_reader_is_told_only_what_changed_since_it_read() -> None:
    record = Record(Limits())
    record.take("stream", {"name": "stdout", "text": "a\n"})
    record.take("display_data", _display("1 of 2", "bar"))
    assert list(record.changes().written) == [1, 2]
    seen = record.change
    record.take("update_display_data", _display("2 of 2", "bar"))
    changes = record.changes()
    assert list(changes.written) == [2]
    assert [number for number, changed in record.index() if changed > seen] == [2]


def test_clearing_with_wait_happens_with_the_next_output() -> None:
    record = Record(Limits())
    record.take("display_data", _display("first"))
    record.take("clear_output", {"wait": True})
    assert len(record.index()) == 1 and record.clears == 0
    record.take("display_data", _display("second"))
    assert record.clears == 1
    assert record.changes().gone == [1] and len(record.index()) == 1


def test_displays_beyond_the_limit_are_counted_and_the_text_goes_on() -> None:
    record = Record(Limits(displays=100, display_bytes=1000))
    for _ in range(5):
        record.take("display_data", _display("x" * 300))
    record.take("stream", {"name": "stdout", "text": "the end\n"})
    assert record.left_out == 3
    assert _text(record)[-1] == ["stream", {"name": "stdout", "text": "the end\n"}]


def test_an_update_that_does_not_fit_leaves_what_was_shown() -> None:
    record = Record(Limits(display_bytes=500))
    record.take("display_data", _display("small", "plot"))
    record.take("update_display_data", _display("x" * 1000, "plot"))
    assert record.left_out == 1 and _text(record)[0][1]["data"] == {"text/plain": "small"}


@pytest.mark.parametrize("name", ["train", "Müller", "run-2", "a.b", "x@home"])
def test_names(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "In[5]", "7", "auto", "local", "host:6379", "ray://x", "a.yaml", "a b", "a/b", "-x",
     "a\nb", "x" * 101, 'a"b'],
)  # fmt: skip
def test_what_means_a_cell_an_address_or_a_file_is_no_name(name: str) -> None:
    with pytest.raises(NotKeptError, match="cannot name"):
        check_name(name)
