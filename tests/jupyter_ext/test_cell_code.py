"""The code of a remote cell is the notebook's: classes, functions, ``__main__``, `sys.exit`."""

from __future__ import annotations

import pytest
from support.kernel import Notebook, one_kernel_for_most, shared_notebook

__all__ = ["one_kernel_for_most", "shared_notebook"]

KINDS = """
import abc, collections, contextlib, dataclasses, enum, functools, typing
LIMIT, n = 1, 0
@dataclasses.dataclass
class Data:
    rate: float = 0.1
    def limit(self): return LIMIT
@dataclasses.dataclass(frozen=True, order=True)
class Frozen:
    x: int = 1
@dataclasses.dataclass(slots=True)
class Slotted:
    x: int = 1
    def limit(self): return LIMIT
class Plain:
    @property
    def limit(self): return LIMIT
    @classmethod
    def count(cls):
        global n
        n += 1
        return n
    @staticmethod
    def still(): return LIMIT
    @functools.cached_property
    def kept(self): return LIMIT
    class Inner:
        def limit(self): return LIMIT
class Color(enum.Enum):
    RED = 1
    def limit(self): return LIMIT
class Pair(typing.NamedTuple):
    a: int
    def limit(self): return LIMIT
T = typing.TypeVar("T")
class Box(typing.Generic[T]):
    def limit(self): return LIMIT
class Meta(type):
    def limit(cls): return LIMIT
class Made(metaclass=Meta): pass
class Shape(abc.ABC):
    @abc.abstractmethod
    def limit(self): ...
class Square(Shape):
    def limit(self): return LIMIT
class Field:
    def __get__(self, owner, kind): return LIMIT
class Described:
    limit = Field()
def traced(f):
    @functools.wraps(f)
    def inner(*args): return f(*args)
    return inner
@traced
def traced_limit(): return LIMIT
@contextlib.contextmanager
def managed(): yield LIMIT
@functools.lru_cache
def cached(x): return LIMIT
@functools.singledispatch
def shown(x): return LIMIT
@shown.register
def _(x: int): return -LIMIT
part = functools.partial(lambda x: x + LIMIT, 1)
def outer():
    k = 5
    def inner(): return LIMIT + k
    return inner
closure = outer()
class Recursive:
    def limit(self): return Recursive and LIMIT
"""
MADE = (
    "things = [Data(0.5), Frozen(2), Slotted(3), Plain(), Plain.Inner(), Color.RED, Pair(1), "
    "Box[int](), Made, Square(), Described(), traced_limit, managed, cached, shown, part, closure, "
    "Recursive()]"
)
LIMITS = (
    "with managed() as m: pass\n"
    "[Data().limit(), Slotted().limit(), Plain().limit, Plain.still(), Plain().kept, "
    "Plain.Inner().limit(), Color.RED.limit(), Pair(1).limit(), Box().limit(), Made.limit(), "
    "Square().limit(), Described().limit, traced_limit(), m, shown('a'), -shown(1), part() - 1, "
    "closure() - 5, Recursive().limit()]"
)
BACK = (
    "[t[0].limit(), t[2].limit(), t[3].limit, t[4].limit(), t[5].limit(), t[6].limit(), "
    "t[7].limit(), t[8].limit(), t[9].limit(), t[10].limit, t[11](), t[14]('a'), t[15]() - 1, "
    "t[16]() - 5, t[17].limit()]"
)


def test_classes_and_functions_that_come_back_are_the_notebooks_own(notebook: Notebook) -> None:
    assert not notebook.run(KINDS).error
    notebook.run("old = Data(0.3), Plain(), Slotted(1)\nkept = dict(vars(Plain)), dict(vars(Data))")
    assert not notebook.run(f"%%remote\n{MADE}\nPlain.count()").error
    assert not notebook.run("t = things").error
    assert notebook.run(
        "t[0] == Data(0.5), Frozen(1) < t[1], t[2] == Slotted(3), type(t[3]) is Plain, "
        "type(t[4]) is Plain.Inner, t[5] is Color.RED, type(t[6]) is Pair, t[8] is Made, "
        "isinstance(t[9], Shape), isinstance(old[1], type(t[3])), repr(t[0])"
    ).result == ("(True, True, True, True, True, True, True, True, True, True, 'Data(rate=0.5)')")
    notebook.run("LIMIT = 99; n = 0; Plain.count(); Plain.count()")
    assert notebook.run("n").result == "2"
    assert notebook.run(f"{LIMITS} == [99] * 19").result == "True"
    assert notebook.run(f"{BACK} == [99] * 15").result == "True"
    unchanged = "all(vars(c)[k] is v for c, d in zip((Plain, Data), kept) for k, v in d.items())"
    assert notebook.run(unchanged).result == "True"


def test_classes_and_functions_of_a_cell_become_the_notebooks_own(notebook: Notebook) -> None:
    assert not notebook.run(f"%%remote\n{KINDS}\n{MADE}").error
    assert notebook.run("LIMIT = 7; n = 4\nPlain.count(), n").result == "(5, 5)"
    assert notebook.run(f"{LIMITS} == [7] * 19").result == "True"
    assert notebook.run(f"t = things; {BACK} == [7] * 15").result == "True"
    assert notebook.run("type(t[3]) is Plain, Slotted(4).x").result == "(True, 4)"
    again = notebook.run(f"%%remote\nLIMIT = 8\n{LIMITS} == [8] * 19 and type(t[3]) is Plain")
    assert again.result == "True"


def test_a_result_of_a_plain_task_does_not_alter_the_class_here(notebook: Notebook) -> None:
    notebook.run(
        "import nbray\nLIMIT = 1\nclass Own:\n    @property\n    def limit(self): return LIMIT\n"
        "@nbray.remote\ndef made(): return Own()"
    )
    notebook.run("got = nbray.get(made.remote())\nLIMIT = 99")
    assert notebook.run("Own().limit, got.limit, type(got) is Own").result == "(99, 99, True)"


def test_a_function_that_comes_alone_has_what_it_reads(notebook: Notebook) -> None:
    notebook.run(
        "%%remote -o area\nimport math\nscale = 2\ndef area(r): return math.floor(r) * scale"
    )
    assert notebook.run("area(3.5)").result == "6"
    notebook.run("scale = 10")
    assert notebook.run("area(3.5)").result == "30"
    assert notebook.run("%%remote\nscale = 100\narea(1)").result == "100"


MAIN = '''%%remote
from __future__ import annotations
import dataclasses, doctest, inspect, multiprocessing, pickle, threading, typing, __main__
from concurrent.futures import ProcessPoolExecutor
@dataclasses.dataclass
class Leaf:
    v: int
@dataclasses.dataclass
class Tree:
    """A tree.

    >>> Tree(Leaf(1)).leaf.v
    1
    """
    leaf: Leaf
    kinds: typing.ClassVar[int] = 3
def square(x):
    return x * x
context = multiprocessing.get_context("fork")
with ProcessPoolExecutor(2, mp_context=context) as pool:
    squares = list(pool.map(square, range(4)))
with context.Pool(2) as pool:
    leaves = pool.map(Leaf, [1])
in_thread = []
thread = threading.Thread(target=lambda: in_thread.append(pickle.dumps(Leaf(2))))
thread.start()
thread.join()
blob = pickle.dumps(Tree(Leaf(5)))
facts = [
    pickle.loads(blob) == Tree(Leaf(5)), squares == [0, 1, 4, 9], leaves == [Leaf(1)],
    typing.get_type_hints(Tree)["leaf"] is Leaf, len(dataclasses.fields(Tree)) == 1,
    inspect.getsource(square).startswith("def square"), __main__.square is square,
    doctest.testmod().attempted == 1, doctest.testmod().failed == 0, bool(in_thread),
    __name__ == "__main__", inspect.getmodule(square) is __main__,
]
del pool, thread, context
facts
'''  # fmt: skip


def test_a_cell_has_a_main_like_a_kernels(notebook: Notebook) -> None:
    cell = notebook.run(MAIN)
    assert not cell.error
    assert cell.result == str([True] * 12)
    assert notebook.run("import pickle\npickle.loads(blob) == Tree(Leaf(5))").result == "True"


def test_names_in_string_annotations_are_there(notebook: Notebook) -> None:
    notebook.run(
        "import dataclasses, typing\nclass Leaf: pass\n@dataclasses.dataclass\n"
        "class Tree:\n    leaf: 'Leaf'\ndef grow(tree: 'Tree') -> 'Leaf': pass"
    )
    cell = notebook.run(
        "%%remote\nclass Wood:\n    trees: 'list[Tree]'\n"
        "hints = [typing.get_type_hints(x) for x in (Tree, grow, Wood)]\n"
        "hints == [{'leaf': Leaf}, {'tree': Tree, 'return': Leaf}, {'trees': list[Tree]}]"
    )
    assert cell.result == "True"


def test_afterwards_plain_tasks_have_the_main_of_before(notebook: Notebook) -> None:
    notebook.run(
        "import nbray\n@nbray.remote\ndef names():\n    import __main__\n"
        "    return [n for n in ('Planted', 'planted') if hasattr(__main__, n)]"
    )
    notebook.run("%%remote --targets workers\nplanted = 1\nclass Planted: pass")
    notebook.run("%%remote --targets workers\nplanted = 2\n1 / 0")
    got = notebook.run("nbray.get([names.remote() for _ in range(8)]) == [[]] * 8")
    assert got.result == "True"


@pytest.mark.parametrize(
    ("ending", "shown"),
    [
        ("sys.exit('the input file is missing')", "SystemExit: the input file is missing"),
        ("sys.exit(3)", "SystemExit: 3"),
        ("raise SystemExit", "SystemExit"),
        ("quit()", "SystemExit: None"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--no'])", "SystemExit: 2"),
        ("import asyncio\nawait asyncio.sleep(0)\nsys.exit(4)", "SystemExit: 4"),
    ],
)
@pytest.mark.parametrize("options", ["", " --actor exits"])
def test_a_cell_that_exits_is_run_once_and_shown_as_a_kernel_shows_it(
    notebook: Notebook, tmp_path: object, ending: str, shown: str, options: str
) -> None:
    notebook.run("import sys, os\nkept = 1")
    cell = notebook.run(f"%%remote{options}\nkept = 2\nprint('run by', os.getpid())\n{ending}")
    assert shown in cell.error and "Worker" not in cell.error
    assert cell.printed.count("run by") == 1
    assert notebook.run("kept").result == "1"


def test_magics_in_a_cell_see_its_names_and_its_main(notebook: Notebook) -> None:
    cell = notebook.run(
        "%%remote\n%%capture caught\nk = 3\ndef f(): return k\nclass C: pass\nimport pickle\n"
        "print(f(), type(pickle.loads(pickle.dumps(C()))).__name__)"
    )
    assert not cell.error
    assert notebook.run("%%remote\n%time f()").result == "3"
