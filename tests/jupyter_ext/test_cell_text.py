"""What a remote cell is read as: names in every kind of statement, magics, what is refused."""

from __future__ import annotations

import threading
from typing import Any

import numpy
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from nbray.jupyter_ext.cell.analysis import analyse
from nbray.jupyter_ext.cell.text import NotRemoteError, read_cell
from nbray.jupyter_ext.words import split, unquoted
from nbray.jupyter_ext.worker.parcel import dump
from nbray.pickling.unpicklable import find_unpicklable


@pytest.mark.parametrize(
    ("cell", "needs", "assigns"),
    [
        ("x = [x for x in xs]", {"xs"}, {"x"}),
        ("{k for k in ks if (last := k)}", {"ks"}, {"last"}),
        ("sum(a * b for a in as_ for b in bs(a))", {"sum", "as_", "bs"}, set()),
        ("total += step", {"total", "step"}, {"total"}),
        ("total: float = 0.0", {"float"}, {"total"}),
        ("del gone", {"gone"}, set()),
        ("gone = 1\ndel gone", set(), set()),
        ("if (n := len(xs)) > 3:\n    n", {"len", "xs"}, {"n"}),
        ("match p:\n    case Point(x=px):\n        px\n    case [a, *rest]:\n        a",
         {"p", "Point"}, {"px", "a", "rest"}),
        ("try:\n    f()\nexcept* ValueError as group:\n    handle(group)",
         {"f", "ValueError", "handle"}, set()),
        ("with a as b, c(b) as (d, e):\n    pass", {"a", "c"}, {"b", "d", "e"}),
        ("import os.path as p, json", set(), {"p", "json"}),
        ("from m import a as b", set(), {"b"}),
        ("def f():\n    global g\n    g = 1\nf()", {"g"}, {"f", "g"}),
        ("def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    return g",
         set(), {"f"}),
        ("class A:\n    x = 1\n    y = [x for _ in range(3)]", {"range", "x"}, {"A"}),
        ("@deco(arg)\ndef f(a: Kind = dflt) -> Out:\n    return a",
         {"deco", "arg", "dflt", "Kind", "Out"}, {"f"}),
        ("@deco\nclass B(Base, metaclass=Meta):\n    field: int = 3",
         {"deco", "Base", "Meta", "int"}, {"B"}),
        ("f'{value:{width}} {name!r}'", {"value", "width", "name"}, set()),
        ("async with pool as p:\n    await p.go(job)", {"pool", "job"}, {"p"}),
        ("(lambda q: q + outer)(1)", {"outer"}, set()),
        ("*head, tail = seq", {"seq"}, {"head", "tail"}),
        ("for i, (a, b) in pairs:\n    last = a", {"pairs"}, {"i", "a", "b", "last"}),
        ("while cond():\n    break\nelse:\n    done = 1", {"cond"}, {"done"}),
        ("print(__name__)", {"print", "__name__"}, set()),
    ],
)  # fmt: skip
def test_names_are_found_in_every_kind_of_statement(
    cell: str, needs: set[str], assigns: set[str]
) -> None:
    names = analyse(cell)
    assert names.needs == needs
    assert set(names.assigns) == assigns


@pytest.mark.parametrize(
    ("cell", "mutates"),
    [
        ("a[0] = 1", {"a"}),
        ("a.b.c = 1", {"a"}),
        ("a['x'][1] += 2", {"a"}),
        ("del a[0]", {"a"}),
        ("a = []\na[0:1] = [2]", set()),
        ("(a[0], b.c) = 1, 2", {"a", "b"}),
        ("for row.x in xs:\n    pass", {"row"}),
        ("f(x)[0] = 1", set()),
        ("a[0]", set()),
    ],
)
def test_what_a_cell_changes_in_place_is_seen(cell: str, mutates: set[str]) -> None:
    assert analyse(cell).mutates == mutates


def read(body: str, **namespace: Any) -> Any:
    transform = TransformerManager().transform_cell
    return read_cell("%%remote\n" + body, "<remote cell In [1]>", namespace, transform)


@pytest.mark.parametrize(
    ("body", "needs", "assigns"),
    [
        ("%time y = f(x)", {"f", "x"}, {"y"}),
        ("%timeit -n 3 -r 1 f(x)", {"f", "x"}, set()),
        ("!ls {folder}/$name", {"folder", "name"}, set()),
        ("files = !ls", set(), {"files"}),
        ("%%time\ny = x", {"x"}, {"y"}),
        ("%%capture out\ny = x", {"x"}, {"y", "out"}),
        ("%%bash\necho $HOME", set(), set()),
        ("%matplotlib inline\nplot(x)", {"plot", "x"}, set()),
        ("if x:\n    %time y = 1", {"x"}, {"y"}),
    ],
)
def test_the_code_in_magics_is_looked_into(body: str, needs: set[str], assigns: set[str]) -> None:
    names = read(body).names
    assert names.needs - {"get_ipython"} == needs
    assert set(names.assigns) == assigns


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("x = 1\n\nname = input()", "line 4: input()"),
        ("def f():\n    return input('?')\nf()", "line 3: input()"),
        ("%load_ext x", "line 2: %load_ext belongs to the notebook"),
        ("\n%%remote\n1", "%%remote belongs to the notebook"),
    ],
)
def test_what_needs_a_person_is_refused_with_its_line(body: str, said: str) -> None:
    with pytest.raises(NotRemoteError, match=said.replace("(", r"\(").replace(")", r"\)")):
        read(body)


def test_a_function_called_input_is_the_users_own() -> None:
    assert read("input('x')", input=len).names.needs == {"input"}
    assert read("def f(input):\n    return input()").names.needs == set()


def test_lines_keep_their_numbers() -> None:
    text = read("\n\nx = 1\n%time y = 2\nz = 3")
    assert text.code.split("\n")[3] == "x = 1"
    assert text.code.split("\n")[5] == "z = 3"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a  b", ["a", "b"]),
        ("--map x=[1, 2]  -o y", ["--map", "x=[1, 2]", "-o", "y"]),
        ("--map x=['a b', \"c\"]", ["--map", "x=['a b', \"c\"]"]),
        ("--resources '{\"a\": 1}'", ["--resources", '{"a": 1}']),
        ("--name 'two words' # why", ["--name", "two words"]),
        ("", []),
    ],
)
def test_words_keep_brackets_and_inner_quotes(line: str, words: list[str]) -> None:
    assert split(line, "%x") == words


def test_only_quotes_around_the_whole_are_dropped() -> None:
    assert unquoted("'a' + 'b'") == "'a' + 'b'"
    assert unquoted('"a"') == "a"


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


def with_closure() -> Any:
    lock = threading.Lock()
    return lambda: lock


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"a": [1, {"b": threading.Lock()}]}, "v['a'][1]['b']"),
        ((1, (2, iter(x for x in ()))), "v[1][1]"),
        (Slotted(), "v.lock"),
        (with_closure(), "lock (which v holds)"),
        (threading.Lock(), "v"),
    ],
)
def test_the_part_that_cannot_go_is_found(value: Any, path: str) -> None:
    found = find_unpicklable("v", value, lambda part: dump(part, {}, [], {}))
    assert found is not None and found.path == path


def test_nothing_is_blamed_for_a_value_that_can_go() -> None:
    value = {"a": numpy.zeros(3), "f": len}
    assert find_unpicklable("v", value, lambda part: dump(part, {}, [], {})) is None
