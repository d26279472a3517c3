"""A program that is killed, as a kernel is, leaves no process behind, whatever it waited for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nbray.testing import processes_of, wait_until

PROGRAM = """
import sys, time
import nbray
from nbray.util.placement_group import placement_group

nbray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=64 << 20)

@nbray.remote(num_cpus=0)
class Slow:
    def __init__(self): print("constructs", flush=True); time.sleep(1000)
    def f(self): pass

@nbray.remote(num_cpus=0)
class Quick:
    def f(self): pass

@nbray.remote
def task(): print("runs", flush=True); time.sleep(1000)

waits = {
    "a constructor": lambda: [Slow.remote() for _ in range(3)],
    "resources for actors": lambda: [task.remote(), [Quick.options(num_cpus=1).remote() for _ in range(3)]],
    "resources that are nowhere": lambda: [Quick.options(num_gpus=9).remote(), task.options(num_gpus=9).remote()],
    "a placement group": lambda: [placement_group([{"CPU": 9}]), placement_group([{"CPU": 1}] * 3)],
    "much": lambda: [[Slow.remote() for _ in range(40)], [task.remote() for _ in range(40)]],
}
waits["everything"] = lambda: [wait() for name, wait in waits.items() if name != "everything"]
held = waits[sys.argv[1]]()
time.sleep(2.5)
print("waits", flush=True)
time.sleep(1000)
"""  # noqa: E501


@pytest.mark.parametrize(
    "what",
    ["a constructor", "everything"],
)
def test_a_killed_program_leaves_no_process(session_root: Path, what: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, what], stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    while "waits" not in program.stdout.readline():
        assert program.poll() is None
    assert processes_of(session_root)
    program.kill()
    program.wait()
    wait_until(lambda: not processes_of(session_root), "the end of all processes")
    for folder in session_root.iterdir():  # the next program would delete it
        shutil.rmtree(folder)
