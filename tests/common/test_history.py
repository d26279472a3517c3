"""The rings on disk: minutes finely, days coarsely, bounded, found again after a kill."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.common.history import (
    CLUSTER,
    COLUMNS,
    MOST_NODES,
    NODE_COLUMNS,
    History,
    Level,
    NodeHistories,
)
from nbray.gcs.series import Series
from nbray.wire.records import NodeInfo

LEVELS = (Level(1, 60), Level(10, 60), Level(60, 60))
NOW = 1_700_000_000.0


def test_the_finest_level_that_reaches_there_is_read(tmp_path: Path) -> None:
    series = History(tmp_path / "x", ("a", "b"), LEVELS)
    for second in range(2000):
        series.add(NOW + second, [float(second), 1.0])
    end = NOW + 1999
    fine = series.rows(end - 50, end)
    assert [row[1] for row in fine] == [float(second) for second in range(1950, 2000)]
    middle = series.rows(end - 500, end)
    assert 45 <= len(middle) <= 51 and all(row[2] == 1.0 for row in middle)
    assert [row[0] for row in middle] == sorted(row[0] for row in middle)
    coarse = series.rows(end - 3000, end)
    assert 25 <= len(coarse) <= 34
    assert abs(coarse[10][1] - (coarse[10][0] - NOW)) < 31, "a row is the average of its period"
    assert len(series.rows(end - 3000, end, most=10)) <= 10


def test_a_file_is_bounded_whatever_is_added_and_made_anew_for_other_columns(
    tmp_path: Path,
) -> None:
    path = tmp_path / "x"
    series = History(path, ("a",), LEVELS)
    size = path.stat().st_size
    for second in (0.0, 1e9, 2.5, NOW, NOW - 1e6, NOW + 1e6):
        series.add(second, [math.nan])
    assert path.stat().st_size == size and path.stat().st_mode & 0o077 == 0
    series.close()
    assert History(path, ("a",), LEVELS).rows(NOW - 10, NOW), "it is found again"
    assert not History(path, ("a", "b"), LEVELS).rows(NOW - 10, NOW)
    path.write_bytes(b"torn")
    assert not History(path, ("a",), LEVELS).rows(0, NOW)


def test_a_whole_dashboard_keeps_little(tmp_path: Path) -> None:
    History(tmp_path / "cluster", COLUMNS, CLUSTER)
    nodes = NodeHistories(tmp_path, ("a",) * 12)
    for number in range(MOST_NODES + 10):
        nodes.of(f"{number:04}", make=True)
    assert nodes.of(f"{MOST_NODES:04}") is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 40 << 20
    nodes.keep({f"{number:04}" for number in range(5)})
    assert nodes.of("0009") is None and nodes.of("new", make=True) is not None
    assert len(list(tmp_path.iterdir())) == 7


def test_what_was_added_outlives_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from nbray.common.history import *\n"
        f"h = History(Path(sys.argv[1]), ('a',), (Level(1, 60),)); h.add({NOW}, [4.5])\n"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "x")], env=os.environ)
    assert ended.returncode == -9
    assert History(tmp_path / "x", ("a",), (Level(1, 60),)).rows(NOW - 5, NOW) == [(NOW, 4.5)]


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=60))
def test_rows_come_in_order_and_only_of_the_time_that_is_asked_for(moments: list[float]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        series = History(Path(folder) / "x", ("a",), LEVELS)
        for moment in moments:
            series.add(NOW + moment, [moment])
        last = NOW + max(moments)
        rows = series.rows(last - 40, last)
        assert rows == sorted(rows) and all(last - 40 < row[0] <= last + 1 for row in rows)
        series.close()


def test_rates_of_nodes_are_between_their_reports_and_never_negative(tmp_path: Path) -> None:
    kept = Series(tmp_path / "s", lambda: (), lambda: (0, 0))

    def node(number: int, received: float | None) -> NodeInfo:
        stats = {"cpu_percent": 50.0, "memory_used": 1.0}
        if received is not None:
            stats["net_received"] = received
        return NodeInfo(bytes([number]) * 28, "ip", 0, 0, "", False, True, {}, {}, stats)

    for second, received in enumerate((1000.0, 1000.0, 3000.0, 0.0)):
        kept.add(NOW + second, [node(1, received), node(2, None)], (second, 0))
    rows = kept.history.rows(NOW - 5, NOW + 3)
    place = 1 + COLUMNS.index("received")
    assert math.isnan(rows[0][place])
    assert rows[2][place] == 1000.0 and rows[3][place] == 0.0, "a machine that began anew"
    assert [row[1 + COLUMNS.index("cpu")] for row in rows] == [50.0] * 4
    assert [row[1 + COLUMNS.index("nodes")] for row in rows] == [2.0] * 4
    assert [row[1 + COLUMNS.index("finished")] for row in rows] == [0.0, 1.0, 1.0, 1.0]
    reader = NodeHistories(tmp_path / "s", NODE_COLUMNS)
    found = reader.of((b"\1" * 28).hex())
    assert found is not None and len(found.rows(NOW - 5, NOW + 3)) == 1
    assert reader.of("ab" * 28) is None and reader.of("../cluster") is None


def test_who_reads_a_file_goes_on_when_it_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(FileNotFoundError):
        History(path, ("a",), LEVELS, writable=False)
    History(path, ("a",), LEVELS).add(NOW, [1.0])
    reader = History(path, ("a",), LEVELS, writable=False)
    History(path, ("a", "b"), LEVELS).add(NOW, [2.0, 3.0])
    assert reader.rows(NOW - 5, NOW) == [(NOW, 1.0)]
    with pytest.raises(FileNotFoundError):
        History(path, ("a",), LEVELS, writable=False)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
