"""The chaos suite; see `chaos`, which can also be run by itself with any seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import run
from chaos_faults import report


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_chaos(session_root: Path) -> None:
    faults, work = run(seed=1, seconds=12, least=4)
    assert len(faults) >= 4 and work.total() > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 103))
def test_chaos(session_root: Path, seed: int) -> None:
    faults, work = run(seed, seconds=90, least=10)
    print(report(faults))
    assert len(faults) >= 10 and work.total() > 50


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_driver_from_afar_in_chaos(session_root: Path) -> None:
    faults, work = run(seed=7, seconds=25, least=8, far=True)
    print(report(faults))
    assert len(faults) >= 8 and work.total() > 5
