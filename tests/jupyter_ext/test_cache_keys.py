"""The digest of a cell's inputs: the same for the same content, wherever it is made."""

from __future__ import annotations

import collections
import copy
import datetime
import decimal
import functools
import math
import os
import pickle
import platform
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy
import pandas
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nbray
from nbray.jupyter_ext.cache import modules
from nbray.jupyter_ext.cache.hashing import Hasher, UnhashableError
from nbray.jupyter_ext.cache.key import Facts, Key, Part, hints_of, key_of
from nbray.jupyter_ext.cell.analysis import analyse
from nbray.jupyter_ext.cell.places import is_users


def digest(value: Any, home: dict[str, Any] | None = None) -> str:
    return Hasher({} if home is None else home).digest("x", value)


_ATOMS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers()
    | st.text(st.characters(codec=None)) | st.binary()
)  # fmt: skip
_KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
_VALUES = st.recursive(
    _ATOMS,
    lambda inner: (
        st.lists(inner, max_size=12) | st.lists(inner, max_size=12).map(tuple)
        | st.dictionaries(_KEYS, inner, max_size=12) | st.sets(_KEYS, max_size=12)
        | st.frozensets(_KEYS, max_size=12)
    ),
    max_leaves=16,
)  # fmt: skip


def _same(one: Any, other: Any) -> bool:
    """Whether two values are alike in all that a program can see but identity."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return (math.isnan(one) and math.isnan(other)) or repr(one) == repr(other)
    if isinstance(one, complex):
        return _same(one.real, other.real) and _same(one.imag, other.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return _same([*one.items()], [*other.items()])
    if isinstance(one, set | frozenset):
        return {(type(e), e) for e in one} == {(type(e), e) for e in other}
    return bool(one == other)


@settings(max_examples=25)
@given(_VALUES)
def test_a_copy_has_the_same_digest(value: Any) -> None:
    assert digest(copy.deepcopy(value)) == digest(value)
    assert digest(pickle.loads(pickle.dumps(value))) == digest(value)


@settings(max_examples=25)
@given(_VALUES, _VALUES)
def test_other_content_has_another_digest(one: Any, other: Any) -> None:
    if digest(one) == digest(other):
        assert _same(one, other)


@settings(max_examples=20)
@given(st.lists(_KEYS, unique=True, max_size=12), st.randoms())
def test_the_order_of_a_set_does_not_count_and_that_of_a_dict_does(keys: list[Any], r: Any) -> None:
    mixed = r.sample(keys, len(keys))
    assert digest(set(keys)) == digest(set(mixed))
    assert digest(frozenset((k, 1) for k in keys)) == digest(frozenset((k, 1) for k in mixed))
    same = digest(dict.fromkeys(keys)) == digest(dict.fromkeys(mixed))
    assert same == ([*map(repr, keys)] == [*map(repr, mixed)])


_APART = [
    [True, 1, 1.0, "1", b"1", 1 + 0j, numpy.int64(1), numpy.float64(1), numpy.bool_(True)],
    [0.0, -0.0, 0, False, None, (), [], {}, set(), frozenset(), "", b"", bytearray()],
    [math.nan, math.inf, -math.inf],
    [2**70, 2**70 + 1, -(2**70), float(2**70)],
    ["\ud800", "\udc00", "?", "a\0b", "ab"],
    [[1, 2], [2, 1], (1, 2), {1, 2}, {1: 2}, {2: 1}, [[1, 2]], [[1], 2], [1, [2]]],
    [["ab"], ["a", "b"], [["a"], "b"], ["a", ["b"]]],
    [[*range(20)], [*range(19), 20], [*map(float, range(20))], [*range(20), None]],
    [range(3), range(4), slice(3), slice(0, 3)],
    [numpy.zeros(3), numpy.zeros((3, 1)), numpy.zeros(3, "f4"), -numpy.zeros(3), numpy.ones(3)],
    [numpy.array([1, 2], ">i4"), numpy.array([1, 2], "<i4")],
    [numpy.array([1, None], object), numpy.array([1, 2], object), numpy.array([1.0, 2.0], object)],
    [datetime.date(2020, 1, 1), datetime.datetime(2020, 1, 1), pandas.Timestamp("2020-01-01")],
    [decimal.Decimal("1.0"), decimal.Decimal("1.00")],
    [collections.Counter("ab"), {"a": 1, "b": 1}, collections.OrderedDict(a=1, b=1)],
    [SimpleNamespace(a=1), SimpleNamespace(a=2), SimpleNamespace(b=1)],
    [pandas.Series([1, 2]), pandas.Series([1.0, 2]), pandas.Series([1, 2], name="n"),
     pandas.Series([1, 2], index=[1, 2]), pandas.Series([1, 2], dtype="Int64"),
     pandas.DataFrame([1, 2])],
    [pandas.Series(["a", None]), pandas.Series(["a", "b"]),
     pandas.Series(["a", None], dtype=object)],
    [pyarrow.array([1, None]), pyarrow.array([1, 0]), pyarrow.array([1.0, None])],
]  # fmt: skip


@pytest.mark.parametrize("values", _APART, ids=range(len(_APART)))
def test_values_that_differ_in_what_can_be_seen_have_digests_of_their_own(
    values: list[Any],
) -> None:
    assert len({digest(value) for value in values}) == len(values)
    assert len({digest([value, "more"]) for value in values}) == len(values)


def test_what_is_shared_and_what_holds_itself_counts_as_it_is() -> None:
    part = [1]
    assert digest([part, part]) != digest([[1], [1]])
    assert digest([part, part]) == digest([(other := [1]), other])
    circle: list[Any] = [1]
    circle.append(circle)
    again: list[Any] = [1]
    again.append(again)
    assert digest(circle) == digest(again) != digest([1, [1, circle]])
    text = "".join(["a", "bc"])
    assert digest([text, text]) == digest(["abc", "".join(["ab", "c"])])
    one, other = Hasher({}), Hasher({})
    assert one.digest("a", part) == other.digest("a", [1])
    assert one.digest("b", part) != other.digest("b", [1])  # the cell would see them as one


def test_arrays_and_tables_count_by_content_and_not_by_how_they_lie() -> None:
    base = numpy.arange(20.0).reshape(4, 5)
    assert digest(base[::2, ::2]) == digest(base[::2, ::2].copy())
    assert digest(numpy.array(["a", "b"])) == digest(numpy.array(["b", "a"])[::-1])
    frame = pandas.DataFrame({"a": [1, 2], "b": [3, 4]})
    parts = pandas.DataFrame({"a": [1, 2]})
    parts["b"] = [3, 4]
    assert digest(frame) == digest(parts) == digest(pickle.loads(pickle.dumps(parts)))
    masked = pandas.Series([1, 2, 3], dtype="Int64")
    masked[1] = None
    assert digest(masked) == digest(pandas.Series([1, None, 3], dtype="Int64"))
    whole = pyarrow.chunked_array([[1, None], [3]])
    assert digest(whole) == digest(pyarrow.chunked_array([[1], [None, 3]]))
    texts = pyarrow.array(["x", "a", None])
    assert digest(texts[1:]) == digest(pyarrow.array(["a", None]))
    record = numpy.zeros(2, [("a", "i1"), ("b", "f8")])
    aligned = numpy.empty(2, numpy.dtype([("a", "i1"), ("b", "f8")], align=True))
    aligned.view(numpy.uint8)[:] = 7
    aligned["a"], aligned["b"] = 0, 0
    assert digest(aligned["b"]) == digest(record["b"])


_HOME = """
import contextlib, dataclasses, enum, functools
k = 3
def g(x): return x + k
def f(x, *, y=2):
    import json
    return g(x) * y, json
@dataclasses.dataclass(frozen=True)
class P:
    a: int = 0
    def m(self): return f(self.a)
class Colour(enum.Enum):
    R = 1
@functools.lru_cache
def kept(x): return g(x)
@contextlib.contextmanager
def context(): yield k
def outer():
    z = [1]
    def inner(): return z, inner
    return inner
inner = outer()
class Q:
    __slots__ = ("u",)
    def __init__(self): self.u = {1, 2, "a"}
    def me(self): return __class__
p, q, colour, part = P(3), Q(), Colour.R, functools.partial(f, 1)
class Bag(set):
    pass
bag = Bag({"a", "b", "c", ("d", 1)})
several = {P(i) for i in range(20)} | {"a", None, (1, "b")}
"""
_NAMES = [
    "f",
    "g",
    "P",
    "Colour",
    "kept",
    "context",
    "inner",
    "Q",
    "p",
    "q",
    "colour",
    "part",
    "bag",
    "several",
]


def _home(text: str = _HOME) -> dict[str, Any]:
    home: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, "<cell>", "exec"), home)
    return home


def _digests(home: dict[str, Any]) -> dict[str, str]:
    hasher = Hasher(home)
    return {name: hasher.digest(name, home[name]) for name in _NAMES}


def test_code_counts_by_what_it_does_and_not_by_where_it_stands() -> None:
    before = _digests(_home())
    assert _digests(_home("# more\n\n\n" + _HOME)) == before
    for old, new, changed in (
        ("return x + k", "return x - k", {"g"}),
        ("y=2", "y=3", {"f"}),
        ("z = [1]", "z = [2]", {"inner"}),
        ("R = 1", "R = 2", {"Colour", "colour"}),
        ("return f(self.a)", "return f(-self.a)", {"P", "p", "several"}),
        ("a: int = 0", "a: int = 1", {"P", "p", "several"}),
        ("yield k", "yield 4", {"context"}),
    ):
        after = _digests(_home(_HOME.replace(old, new)))
        assert {name for name in _NAMES if after[name] != before[name]} == changed


@pytest.mark.slow
def test_another_process_with_another_order_of_sets_comes_to_the_same(tmp_path: Path) -> None:
    program = tmp_path / "digests.py"
    program.write_text(
        "import sys, json\nsys.path.insert(0, sys.argv[1])\n"
        "from test_cache_keys import _digests, _home, digest, _APART\n"
        "print(json.dumps([_digests(_home()), [digest(v) for vs in _APART for v in vs]]))\n"
    )
    told = {
        subprocess.run(
            [sys.executable, str(program), str(Path(__file__).parent)], check=True,
            env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1 and "[" in told.pop()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": [1, threading.Lock()]}, r"x\['a'\]\[1\] is a lock"),
        (SimpleNamespace(state={1: (i for i in ())}), r"x.state\[1\] is a generator"),
        (ModuleType("made"), "made while the notebook ran"),
        (functools.reduce(lambda inner, _: [inner], range(50_000), 1), "nested too deeply"),
    ],
)
def test_what_has_no_stable_digest_is_named(value: Any, told: str) -> None:
    with pytest.raises(UnhashableError, match=told):
        digest(value)
    while type(value) is list and type(value[0]) is list:  # else its end overflows the stack
        value = value[0]


def test_a_part_of_a_set_that_is_shared_with_others_is_not_guessed_at() -> None:
    home = _home("class H:\n    pass\nh = H()\nh.part = part = []")
    with pytest.raises(UnhashableError, match="has it, too"):
        digest([{home["h"]}, home["part"]], home)


# --- modules and keys --------------------


def _key(text: str, home: dict[str, Any], **facts: Any) -> Any:
    import ast

    tree = ast.parse(text)
    return key_of(Facts(tree, analyse(tree).needs, **facts), home)


def _module(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))


def test_own_modules_count_by_their_sources_and_those_that_they_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    _module(tmp_path, "ownpack/__init__.py", "")
    _module(tmp_path, "ownpack/first.py", "from .second import two\nimport numpy")
    _module(tmp_path, "ownpack/second.py", "def two():\n    import ownlate\n    return 2")
    _module(tmp_path, "ownlate.py", "X = 1")
    _module(tmp_path, "ownother.py", "X = 1")
    text = "from ownpack import first\ny = first.two()"
    before = _key(text, {})
    own = {part.name for part in before.key.parts if part.kind == "module"}
    assert own == {"ownpack", "ownpack.first", "ownpack.second", "ownlate"}
    assert {p.name for p in before.key.parts if p.kind == "package"} >= {"numpy"}
    _module(tmp_path, "ownother.py", "X = 2")
    assert _key(text, {}).key.digest == before.key.digest
    _module(tmp_path, "ownlate.py", "X = 2")
    assert _key(text, {}).key.changes(before.key) == ["module ownlate has changed"]
    assert "ownpack" not in sys.modules  # to look imports nothing


_ATTACKS = {
    "an attribute of a package": ("y = pk.part.X", "import pk.part"),
    "an attribute of a namespace": ("y = nspace.part.X", "import nspace.part"),
    "a namespace in one that is not loaded": ("import nspace.deep.part as p\ny = p.X", ""),
    "an attribute by its name as a text": ("y = getattr(pk, 'part').X", "import pk.part"),
    "an attribute by a name that is made": (
        "y = getattr(pk, name).X", "import pk.part\nname = 'part'"
    ),
    "in a function": ("y = f()", "import pk.part\ndef f(): return pk.part.X"),
    "in a function, by its name": (
        "y = f()", "import pk.part\ndef f(n='part'): return getattr(pk, n).X"
    ),
    "of a package in another module": ("import ownouter\ny = ownouter.f()", "import pk.part"),
    "imported by its name": ("import importlib\ny = importlib.import_module('pk.part').X", ""),
    "imported by a name that is made": (
        "from importlib import import_module as im\ny = im(f'pk.{name}').X", "name = 'part'"
    ),
    "imported so in a function": (
        "y = f('part')", "def f(n):\n    import importlib\n    return importlib.import_module(n)"
    ),
    "imported when it is asked for": ("import ownlazy\ny = ownlazy.part.X", ""),
}  # fmt: skip


@pytest.mark.parametrize(("cell", "home"), _ATTACKS.values(), ids=_ATTACKS)
def test_a_module_counts_whatever_way_it_is_reached(
    cell: str, home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = [entry for entry in sys.path if not is_users(f"{entry}/")]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *libraries])
    for name in ("pk/part.py", "nspace/part.py", "ownlazy/part.py", "nspace/deep/part.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        _module(tmp_path, name, "X = 1")
    _module(tmp_path, "pk/__init__.py", "")
    _module(tmp_path, "ownouter.py", "import pk\ndef f(): return pk.part.X")
    lazy = "import importlib\ndef __getattr__(n): return importlib.import_module('.' + n, __name__)"
    _module(tmp_path, "ownlazy/__init__.py", lazy)
    own = [name for name in sys.modules if name.partition(".")[0] in ("pk", "nspace", "ownlazy")]
    for name in own:
        monkeypatch.delitem(sys.modules, name)
    names = _home(home)
    try:
        before = _key(cell, names)
        for part in ("pk", "nspace", "ownlazy", "nspace/deep"):
            _module(tmp_path, f"{part}/part.py", "X = 2")
        told = _key(cell, names).key.changes(before.key)
        assert any(line.endswith("part has changed") for line in told), told
        assert _key(cell, names).key.changes(_key(cell, names).key) == []
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] in ("pk", "nspace")]:
            del sys.modules[name]


def test_a_generator_of_random_numbers_counts_with_its_state() -> None:
    home = {"rng": numpy.random.default_rng(7)}
    before = _key("x = rng.random()", home)
    home["rng"].random()
    assert _key("x = rng.random()", home).key.changes(before.key) == ["input rng has changed"]


def test_a_package_counts_by_its_version_and_those_that_it_requires() -> None:
    sources, versions = modules.facts_of(["pandas.core", "json", "nbray.util"])
    assert not sources
    assert {"pandas", "nbray"} <= versions.keys()
    # Another build of a version has other files.
    assert re.fullmatch(re.escape(numpy.__version__) + ", files [0-9a-f]{12}", versions["numpy"])
    with pytest.raises(modules.UnknownModuleError, match="no_such_module"):
        modules.facts_of(["no_such_module.part"])


def test_a_key_says_what_a_cell_depends_on_and_what_changed() -> None:
    home = _home("k = 1\nunused = 2\ndef h(): return k\ndef f(x): return h() + x\ndata = [1]")
    before = _key("y = f(data)", home)
    assert {(p.kind, p.name) for p in before.key.parts} >= {
        ("function", "f"), ("function", "h"), ("input", "data"), ("input", "k"), ("code", ""),
    }  # fmt: skip
    home["unused"] = 3
    assert _key("y = f( data )  # said", home).key.digest == before.key.digest
    home["k"] = 1.0
    assert (
        _key("y = f(data)", home)
        .key.changes(before.key)[0]
        .startswith("input k has changed (int -> f")
    )
    other = _key("y = f(data)", home, options={"num_gpus": 1}, setups=[("s", "d")])
    assert "the line has changed ( -> num_gpus=1)" in other.key.changes(before.key)
    assert "set-up cell s is new" in other.key.changes(before.key)
    gone = Key((Part("code", "", "1"),)).changes(before.key)
    assert "input data is not needed any more" in gone


def test_the_python_and_the_nbray_that_run_a_cell_are_parts_of_its_key() -> None:
    parts = {(part.kind, part.name): part for part in _key("y = 1", {}).key.parts}
    assert platform.python_version() in parts["Python", ""].says
    assert parts["package", "nbray"].digest.startswith(f"{nbray.__version__}+")
    other = Part("Python", "", "other", "CPython 3.14.1")
    before = Key((other, *(part for part in parts.values() if part.kind != "Python")))
    told = _key("y = 1", {}).key.changes(before)
    assert len(told) == 1 and told[0].startswith("the Python has changed (CPython 3.14.1 -> ")


def test_a_class_that_is_reached_by_an_instance_counts_by_its_name_too() -> None:
    home = _home("class C:\n    def again(self): return C()\nc = C()")
    assert "C" in _key("d = type(c)()", home).names


def test_values_that_two_names_share_count_as_shared() -> None:
    home = _home("a = [1]\nb = a")
    apart = _home("a = [1]\nb = [1]")
    assert _key("a.append(2); b", home).key.digest != _key("a.append(2); b", apart).key.digest


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("x = random.random()", "random numbers (random)"),
        ("x = np.random.default_rng().normal()", "random numbers (default_rng, random)"),
        ("df = pd.read_csv('a.csv')", "files or addresses"),
        ("t = datetime.now()", "the time (now)"),
        ("x = f(1)", "files or addresses"),
        ("x = os.environ['X']", "variables of the environment, which do not count (environ)"),
        ("x = 1", ""),
    ],
)
def test_a_hint_names_what_no_key_can_have(text: str, hint: str) -> None:
    import ast

    words = ["open"] if "f(1)" in text else []
    told = "; ".join(hints_of(ast.parse(text), words))
    assert hint in told and bool(told) == bool(hint)
