"""Children of a program by `multiprocessing` that are drivers, with what it has defined."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.programs import told


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_a_childs_main_module_has_travels_by_value(
    method: str, tmp_path: Path, session_root: Path
) -> None:
    assert told(
        tmp_path,
        f"""
import json
import multiprocessing
import nbray

class Point:
    def __init__(self, x):
        self.x = x

def helper(x):
    return Point(x + 1)

@nbray.remote
def task(x):
    return helper(x).x

@nbray.remote
class Actor(Point):
    def moved(self, by):
        return Point(self.x + by)

def child(answers):
    nbray.init("auto")
    actor = Actor.remote(5)
    answers.put([
        nbray.get([task.remote(i) for i in range(3)]), nbray.get(actor.moved.remote(1)).x,
        nbray.get(nbray.put(Point(7))).x, type(nbray.get(nbray.put(Point(7)))) is Point,
    ])
    nbray.shutdown()

if __name__ == "__main__":
    nbray.init(num_cpus=2)
    context = multiprocessing.get_context({method!r})
    answers = context.Queue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    process.join()
    print(json.dumps([answers.get(timeout=10), nbray.get(task.remote(1))]))
""",
        under=False,
    ) == [[[1, 2, 3], 6, 7, True], 2]  # fmt: skip
