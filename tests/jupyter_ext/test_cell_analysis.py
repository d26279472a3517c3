"""What a cell reads and assigns, from its text."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from nbray.jupyter_ext.cell.analysis import analyse, names_reached


@pytest.mark.parametrize(
    ("cell", "reads"),
    [
        ("x = 1\nprint(x)", {"print"}),
        ("x = x + 1", {"x"}),
        ("x += 1", {"x"}),
        ("x: int = y", {"int", "y"}),
        ("a.b = c[d]", {"a", "c", "d"}),
        ("[x for x in xs if x > low]", {"xs", "low"}),
        ("[x for x in x]", {"x"}),
        ("{k: v + w for k, v in d.items()}", {"d", "w"}),
        ("[[b for b in a] for a in rows]", {"rows"}),
        ("sorted(xs, key=lambda x: weight[x])", {"sorted", "xs", "weight"}),
        ("def f(a, b=default):\n    c = a\n    return c + outside\nf(1)", {"default", "outside"}),
        ("def f():\n    return late\nlate = 1\nf()", set()),
        ("def f():\n    return late\nf()\nlate = 1", {"late"}),
        ("def f():\n    return g()\ndef g():\n    return far\nf()", {"far"}),
        ("def f():\n    import os\n    return os.sep\nf()", set()),
        ("def f():\n    global n\n    n += 1\nf()", {"n"}),
        ("def f():\n    x = 1\n    def g():\n        return x, y\n    return g\nf()", {"y"}),
        ("@wrap\ndef f():\n    return inner", {"wrap", "inner"}),
        (
            "class A(Base):\n    k = value\n    def m(self):\n        return k",
            {"Base", "value", "k"},
        ),
        ("import numpy as np\nnp.zeros(n)", {"n"}),
        ("import a.b\na.b.c", set()),
        ("if flag:\n    x = 1\nx", {"flag", "x"}),
        ("if flag:\n    x = 1\nelse:\n    x = 2\nx", {"flag"}),
        ("for i in r:\n    pass\ni", {"r", "i"}),
        ("with open(p) as h:\n    h.read()", {"open", "p"}),
        ("try:\n    import q\nexcept ImportError as e:\n    q = e\nq", {"ImportError"}),
        ("x = 1\ndel x\nx", {"x"}),
        ("if (n := f()) > 1:\n    n", {"f"}),
        ("match s:\n    case {'a': first, **rest}:\n        rest, first, lost", {"s", "lost"}),
        ("await work()", {"work"}),
        ("x: 'list[Leaf]' = []", {"list", "Leaf"}),
        ("def f(a: 'Leaf', *, b: 'Leaf | None' = None) -> 'Tree': pass", {"Leaf", "Tree"}),
        ("class A:\n    own: 'A'\n    other: 'dict[str, Leaf]'", {"dict", "str", "Leaf"}),
        ("def f(a: 'not an expression'): return 'text'", set()),
    ],
)
def test_reads(cell: str, reads: set[str]) -> None:
    assert analyse(cell).reads == reads


@pytest.mark.parametrize(
    ("cell", "assigns", "certain"),
    [
        ("a = b = 1\n(c, *d), e = v", ("a", "b", "c", "d", "e"), {"a", "b", "c", "d", "e"}),
        ("x.y = 1\nx[0] = 2", (), set()),
        ("for i in r:\n    t = i", ("i", "t"), set()),
        ("a = 1\ndel a", (), set()),
        ("import os.path, json as j\nfrom re import sub", ("os", "j", "sub"), {"os", "j", "sub"}),
        ("def f(): pass\nclass C: inner = 1", ("f", "C"), {"f", "C"}),
        ("[y := v for v in vs]", ("y",), set()),
        ("def f():\n    global n\n    n = 1", ("f", "n"), {"f"}),
        ("try:\n    a = 1\nexcept E as e:\n    b = 2", ("a", "b"), set()),
        ("y: int", (), set()),
    ],
)
def test_assigns(cell: str, assigns: tuple[str, ...], certain: set[str]) -> None:
    names = analyse(cell)
    assert set(names.assigns) == set(assigns)
    assert names.certain == certain


def test_a_function_that_is_only_defined_reads_later() -> None:
    names = analyse("def f():\n    return x")
    assert (names.reads, names.deferred) == (frozenset(), {"x"})
    assert names.needs == {"x"}


def test_deleting_is_not_reading() -> None:
    names = analyse("del x")
    assert (names.reads, names.deletes) == (frozenset(), {"x"})


def test_imports_say_what_they_name() -> None:
    names = analyse("import os.path\nimport json as j\nfrom os import path\nimport re\nre = 1")
    assert names.imports == {"os": "os", "j": "json", "path": "os.path"}


def test_names_are_reached_through_functions_methods_and_wrappers() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__", "functools": functools}
    exec(
        "one = two = three = four = five = unused = 1\n"
        "def f():\n    return g()\n"
        "def g():\n    return [one for _ in ()]\n"
        "class A:\n"
        "    def m(self):\n        return two\n"
        "    @property\n    def p(self):\n        return three\n"
        "a = A()\n"
        "part = functools.partial(lambda: four)\n"
        "def outer(inner):\n    def call():\n        return inner()\n    return call\n"
        "wrapped = outer(lambda: five)\n",
        namespace,
    )
    reached = names_reached({"f", "a", "part", "wrapped", "not there"}, namespace)
    assert {"g", "one", "two", "three", "four", "five"} <= reached
    assert "unused" not in reached
