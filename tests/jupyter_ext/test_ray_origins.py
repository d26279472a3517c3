"""Which cell a task of Ray's belongs to, and who may call Ray while its cluster is left."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from nbray.ray_engine.gate import Gate
from nbray.ray_engine.origins import Origins, Seen
from nbray.ray_engine.parcel import make

ROOT = "f" * 40 + "01000000"


def _origins(known: dict[str, int]) -> Origins:
    origins = Origins(known.get)
    origins.joined(ROOT)
    for number, began in ((1, 100.0), (2, 200.0), (3, 300.0)):
        origins.cell_began(number, began)
    return origins


def test_a_task_that_the_kernel_submitted_is_known_at_once() -> None:
    assert _origins({"a": 2}).find("a") == (2, "")


def test_a_child_belongs_to_the_cell_of_the_first_of_its_line() -> None:
    origins = _origins({"a": 2})
    origins.born({"b": "a", "c": "b"})
    assert origins.find("c") == (2, "")


def test_what_nobody_has_told_of_is_asked_for() -> None:
    origins = _origins({"a": 2})
    origins.born({"c": "b"})
    assert origins.find("c") == (None, "b")
    origins.seen({"b": Seen("a", 0.0)})
    assert origins.find("c") == (2, "")


def test_a_call_that_went_by_nothing_of_ours_belongs_to_the_cell_that_ran_then() -> None:
    origins = _origins({})
    origins.seen({"early": Seen(ROOT, 50.0), "in two": Seen(ROOT, 250.0), "late": Seen("", 1e9)})
    assert [origins.find(task)[0] for task in ("early", "in two", "late")] == [0, 2, 3]


def test_a_line_that_bites_its_tail_ends() -> None:
    origins = _origins({})
    origins.born({"a": "b", "b": "a"})
    assert origins.find("a") == (0, "")


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=60))
def test_whatever_is_told_an_answer_comes_and_the_kernels_own_word_wins(
    edges: list[tuple[int, int]],
) -> None:
    origins = _origins({"0": 1})
    origins.born({str(child): str(parent) for child, parent in edges})
    assert origins.find("0") == (1, "")
    for child, _ in edges:
        cell, missing = origins.find(str(child))
        assert (cell is None) == bool(missing)


def test_the_gate_lets_nobody_in_who_comes_late_and_waits_for_those_inside() -> None:
    gate, inside, go_on = Gate(), threading.Event(), threading.Event()
    assert gate.through(lambda: "in", "out") == "out"
    gate.open()
    assert gate.through(lambda: "in", "out") == "in"

    def stay() -> None:
        inside.set()
        go_on.wait(30)

    thread = threading.Thread(target=lambda: gate.through(stay, None))
    thread.start()
    assert inside.wait(30)
    assert not gate.shut(0.01)
    assert gate.through(lambda: "in", "out") == "out"
    go_on.set()
    assert gate.shut(30)
    thread.join()


def test_what_travels_to_rays_workers_needs_nothing_of_what_stays_behind() -> None:
    folder, packages = make()
    assert [Path(one).name for one in packages] == ["nbray", "cloudpickle"]
    code = (
        "import sys\n"
        "class Rest:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('msgspec', 'uvloop', 'grpc', 'IPython', 'psutil'):\n"
        "            raise ImportError(f'{name} is not there')\n"
        "sys.meta_path.insert(0, Rest())\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        "import nbray.notebook, nbray.jupyter_ext.worker.running, nbray.jupyter_ext.worker.apart\n"
        "import nbray.ray_engine.calls, nbray.ray_engine.post\n"
        "late = [n for n, m in sys.modules.items() if n.startswith('nbray') and\n"
        f"        not str(m.__file__).startswith({str(folder)!r})]\n"
        "assert not late, late\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import site; site.main()\n{code}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
