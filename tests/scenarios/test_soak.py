"""A short soak; see `soak`, which runs for any number of minutes (make soak)."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak import SMALL_RINGS, run


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_everything_levels_off(session_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL_RINGS.items():
        monkeypatch.setenv(name, value)
    done, table = run(seconds=90, seed=1)
    print(table)
    assert done["drivers"] > 3 and done["tasks"] > 20
