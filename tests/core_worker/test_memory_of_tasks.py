"""What many tasks take of their driver's memory, and that they give it back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COUNT = 100_000

_PROGRAM = """
import os, sys, time
import nbray
from nbray.testing import wait_until

gate, count = sys.argv[1], int(sys.argv[2])
nbray.init(num_cpus=2, object_store_memory=200 << 20, resources={"custom": 1})

@nbray.remote(resources={"custom": 1}, num_cpus=0)
def number(i):
    return i

@nbray.remote(resources={"custom": 1}, num_cpus=0)
def hold():
    while not os.path.exists(gate):
        time.sleep(0.02)

def private_bytes():
    # What would come back if this process ended.
    with open("/proc/self/smaps_rollup") as found:
        return sum(int(x.split()[1]) * 1024 for x in found if x.startswith("Private_"))

nbray.get(number.remote(0))
held = hold.remote()
before = private_bytes()
refs = [number.remote(i) for i in range(count)]
taken = private_bytes() - before
open(gate, "w").close()
assert sum(nbray.get(refs)) == sum(range(count))
del refs, held
nbray.get(number.remote(0))
wait_until(lambda: private_bytes() - before < 0.25 * taken, "the return of their memory")
print(taken / count)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_hundred_thousand_tasks_take_little_and_give_it_back(
    session_root: Path, tmp_path: Path
) -> None:
    """In a program of its own: what ran before leaves holes in a heap, or none."""
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, tmp_path / "gate", str(COUNT)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    taken = float(ran.stdout.splitlines()[-1])
    assert taken < 350, f"a queued task takes {taken:.0f} bytes"
