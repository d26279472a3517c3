"""Programs whose tasks come to all nodes, however late a worker starts on one of them."""

from __future__ import annotations

_TASKS = """
import os, sys, time
@nbray.remote
def where():
    time.sleep(0.2)
    return os.uname().nodename
found, until = set(), time.monotonic() + 90
while len(found) < {count} and time.monotonic() < until:
    found |= set(nbray.get([where.remote() for _ in range(12)], timeout=60))
print("ran on", len(found), "{what}", *sys.argv[1:])
"""


def tasks_on(count: int, what: str) -> str:
    """For a program that has joined a cluster; it prints on how many of ``what`` its tasks ran."""
    return _TASKS.format(count=count, what=what)


def program_on(count: int, what: str = "hosts") -> str:
    """A whole program: it joins first."""
    return "import nbray\nnbray.init()\n" + tasks_on(count, what)
