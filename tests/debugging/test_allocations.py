"""What was allocated, by lines: of many a part stands for all, and tracing has an end."""

from __future__ import annotations

import time
import tracemalloc

from nbray.debugging.allocations import Allocations


def of_line(allocations: Allocations, text: str) -> int:
    """Bytes of the lines of this file that say so."""
    with open(__file__, encoding="utf-8") as file:
        numbers = [n for n, line in enumerate(file, 1) if text in line and "of_line(" not in line]
    return sum(
        amount
        for stack, amount in allocations.highest.items()
        if any(stack.endswith(f"({__file__}:{number})") for number in numbers)
    )


def test_of_many_allocations_a_part_stands_for_all_and_the_large_ones_for_themselves() -> None:
    allocations = Allocations(sample=2000)
    allocations.start()
    small = [bytes(100) for _ in range(6000)]  # of 133 bytes each
    smaller = [bytes(10) for _ in range(3000)]  # of 43
    large = bytes(5_000_000)  # alone
    size, _ = tracemalloc.get_traced_memory()
    allocations.measure(time.monotonic(), worth_s=60.0)
    allocations.stop()
    assert "drawn at random" in allocations.note
    # The list that holds them has eight bytes for each, and some to grow.
    assert abs(of_line(allocations, "of 133 bytes each") / (len(small) * 141) - 1) < 0.1
    assert abs(of_line(allocations, "of 43") / (len(smaller) * 51) - 1) < 0.1
    assert len(large) <= of_line(allocations, "# alone") < len(large) + 1000
    assert abs(sum(allocations.highest.values()) / size - 1) < 0.01
    assert not tracemalloc.is_tracing()


def test_few_allocations_are_exact_and_those_at_the_highest_stay() -> None:
    allocations = Allocations()
    allocations.start()
    many = [bytes(1000) for _ in range(1000)]  # then gone
    allocations.measure(time.monotonic())
    many.clear()
    allocations.measure(time.monotonic() + 60, worth_s=60.0)
    allocations.stop()
    assert not allocations.note
    assert of_line(allocations, "# then gone") >= 1000 * 1033


def test_where_tracing_takes_too_much_it_ends_and_what_the_process_grows_by_is_added() -> None:
    allocations = Allocations(most_own=1 << 20)
    allocations.start()
    kept = [bytes(100) for _ in range(20_000)]  # until then
    allocations.grown("work;traced (file.py:1)", 1)
    allocations.measure(time.monotonic())
    assert not tracemalloc.is_tracing()
    for rss in (1000, 1700, 500, 1900):  # MB that were there, and how far it grew beyond
        allocations.grown("work;outer (file.py:1);inner (file.py:2)", rss << 20)
    allocations.measure(time.monotonic(), worth_s=60.0)
    assert allocations.highest["file.py:1 (file.py:1);file.py:2 (file.py:2)"] == 900 << 20
    assert "file.py:1 (file.py:1)" not in allocations.highest
    assert of_line(allocations, "# until then") >= 100 * len(kept)
    assert "Tracing ended there" in allocations.note


def test_what_the_user_traces_is_not_ended() -> None:
    tracemalloc.start()
    try:
        allocations = Allocations(most_own=0)
        allocations.start()
        kept = bytes(1000)  # theirs
        allocations.measure(time.monotonic(), worth_s=1.0)
        allocations.stop()
        assert tracemalloc.is_tracing()
        assert of_line(allocations, "# theirs") >= len(kept)
    finally:
        tracemalloc.stop()


def test_what_no_look_saw_is_told() -> None:
    allocations = Allocations()
    allocations.start()
    kept = bytes(1000)
    allocations.measure(time.monotonic(), worth_s=60.0)
    gone = bytes(1_000_000)
    del gone
    allocations.measure(time.monotonic(), worth_s=60.0)
    allocations.stop()
    assert len(kept) < sum(allocations.highest.values()) < 900_000
    assert "At the highest it was 1.0 MB" in allocations.note


def test_small_objects_count_also_where_the_process_does_not_grow() -> None:
    allocations = Allocations(most_own=1 << 20)
    allocations.start()
    traced = [bytes(100) for _ in range(20_000)]
    allocations.measure(time.monotonic())
    allocations.grown("work;later (file.py:3)", 1)
    more = [bytes(100) for _ in range(20_000)]
    allocations.grown("work;later (file.py:3)", 1)
    found = allocations.highest["file.py:3 (file.py:3)"]
    assert 0.8 * 133 * len(traced) < found < 1.2 * 133 * len(more)
