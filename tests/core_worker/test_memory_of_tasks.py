"""What many tasks take of their driver's memory, and that they give it back."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import nbray
from nbray.testing import wait_until

COUNT = 100_000


def private_bytes() -> int:
    """What would come back if this process ended."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


@pytest.mark.slow
def test_a_hundred_thousand_tasks_take_little_and_give_it_back(
    cluster: Path, tmp_path: Path
) -> None:
    @nbray.remote(resources={"custom": 1}, num_cpus=0)
    def number(i: int) -> int:
        return i

    @nbray.remote(resources={"custom": 1}, num_cpus=0)
    def hold(path: Path) -> None:
        while not path.exists():
            time.sleep(0.02)

    nbray.get(number.remote(0))
    held = hold.remote(tmp_path / "open")
    before = private_bytes()
    refs = [number.remote(i) for i in range(COUNT)]
    taken = private_bytes() - before
    assert taken / COUNT < 350, f"a queued task takes {taken / COUNT:.0f} bytes"
    (tmp_path / "open").touch()
    assert sum(nbray.get(refs)) == sum(range(COUNT))
    del refs, held
    nbray.get(number.remote(0))
    wait_until(lambda: private_bytes() - before < 0.25 * taken, "the return of their memory")
