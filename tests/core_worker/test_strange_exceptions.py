"""An exception of a task is one of its class for whoever gets it, whatever its class is like."""

from __future__ import annotations

import asyncio
import copy
import errno
import pickle
import subprocess
import sys
import threading
import traceback
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import nbray
from nbray import cloudpickle
from nbray.exceptions import TaskCancelledError, TaskError


class NoArguments(Exception):
    def __init__(self) -> None:
        super().__init__("no more seats")


class KeywordOnly(Exception):
    def __init__(self, text: str, *, status: int) -> None:
        super().__init__(text)
        self.status = status


class OwnNew(Exception):
    def __new__(cls, code: int) -> OwnNew:
        return super().__new__(cls, code)

    def __init__(self, code: int) -> None:
        self.code = code


class Slotted(OSError):
    __slots__ = ("where",)

    def __init__(self, where: str) -> None:
        super().__init__(errno.ENOSPC, "no space", "a file")
        self.where = where


class Locked(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text, threading.Lock())
        self.lock = threading.Lock()
        self.text = text


class Final(Exception):
    def __init_subclass__(cls, **_options: Any) -> None:
        raise ValueError("this class is final")


class Registry(type):
    known: ClassVar[list[str]] = []

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Any:
        if name in cls.known or not name.isidentifier():
            raise TypeError(f"{name} cannot be registered")
        cls.known.append(name)
        return super().__new__(cls, name, bases, namespace)


class Registered(Exception, metaclass=Registry):
    pass


class ReadOnly(Exception):
    @property
    def args(self) -> Any:
        return ("read only",)

    @property
    def cause(self) -> str:
        return "mine"

    traceback_str = cause


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


class Refuses(Exception):
    def _refuse(self, *_args: Any) -> Any:
        raise RuntimeError("not with me")

    __str__ = __repr__ = __eq__ = __hash__ = __bool__ = __len__ = __reduce__ = _refuse
    __setattr__ = __delattr__ = _refuse


class BecomesText(Exception):
    def __reduce__(self) -> Any:
        return str, ("text",)


class OwnGroup(ExceptionGroup[Exception]):
    def __new__(cls, members: list[Exception], code: int) -> OwnGroup:
        group = super().__new__(cls, "some", members)
        group.code = code  # type: ignore[attr-defined]
        return group


class ServerDown(Exception):
    def __init__(self) -> None:
        self.ip, self.pid = "10.0.0.1", "own"


def _with_note() -> Exception:
    error = ValueError("x")
    error.add_note("a note")
    return error


def _from(kind: type[BaseException] | None) -> None:
    try:
        raise KeyError("first")
    except KeyError:
        raise ValueError("then") from None if kind is None else kind()


def _raise(error: BaseException) -> None:
    raise error


KINDS: dict[str, tuple[type[BaseException], Callable[[], Any], dict[str, Any]]] = {
    "no arguments": (NoArguments, lambda: _raise(NoArguments()), {"args": ("no more seats",)}),
    "keywords": (KeywordOnly, lambda: _raise(KeywordOnly("bad", status=404)), {"status": 404}),
    "new": (OwnNew, lambda: _raise(OwnNew(3)), {"code": 3, "args": (3,)}),
    "slots": (Slotted, lambda: _raise(Slotted("there")), {"where": "there", "errno": 28}),
    "a lock": (Locked, lambda: _raise(Locked("x")), {"text": "x"}),
    "final": (Final, lambda: _raise(Final("x")), {"args": ("x",)}),
    "metaclass": (Registered, lambda: _raise(Registered("x")), {"args": ("x",)}),
    "read only": (ReadOnly, lambda: _raise(ReadOnly("x")), {"args": ("read only",)}),
    "frozen": (Frozen, lambda: _raise(Frozen(4)), {"code": 4}),
    "refuses": (Refuses, lambda: _raise(Refuses("x")), {"args": ("x",)}),
    "text": (BecomesText, lambda: _raise(BecomesText("x")), {"args": ("x",)}),
    "names": (ServerDown, lambda: _raise(ServerDown()), {"ip": "10.0.0.1", "pid": "own"}),
    "file": (FileNotFoundError, lambda: Path("/no").stat(), {"errno": 2, "filename": "/no"}),
    "decoding": (UnicodeDecodeError, lambda: b"a\xff".decode(), {"start": 1, "object": b"a\xff"}),
    "encoding": (UnicodeEncodeError, lambda: "\ud800".encode(), {"end": 1, "object": "\ud800"}),
    "timeout": (TimeoutError, lambda: _raise(TimeoutError("late")), {"errno": None}),
    "two files": (FileNotFoundError, lambda: Path("/no").rename("/nor"), {"filename2": "/nor"}),
    "syntax": (SyntaxError, lambda: compile("a b", "f", "exec"), {"filename": "f", "lineno": 1}),
    "import": (ModuleNotFoundError, lambda: __import__("nowhere"), {"name": "nowhere"}),
    "attribute": (AttributeError, lambda: Path.nowhere, {"name": "nowhere"}),  # type: ignore[attr-defined]
    "http": (
        urllib.error.HTTPError,
        lambda: _raise(urllib.error.HTTPError("http://x", 500, "boom", Message(), None)),
        {"code": 500},
    ),
    "process": (
        subprocess.CalledProcessError,
        lambda: _raise(subprocess.CalledProcessError(3, "false")),
        {"returncode": 3},
    ),
    "note": (ValueError, lambda: _raise(_with_note()), {"__notes__": ["a note"]}),
    "group": (OwnGroup, lambda: _raise(OwnGroup([NoArguments(), Locked("x")], 7)), {"code": 7}),
}  # fmt: skip


@nbray.remote(max_retries=0)
def fails(kind: str) -> None:
    KINDS[kind][1]()


@nbray.remote
class Actor:
    def fails(self, kind: str) -> None:
        KINDS[kind][1]()

    async def fails_later(self, kind: str) -> None:
        KINDS[kind][1]()


def got(ref: Any) -> Any:
    with pytest.raises(TaskError) as caught:
        nbray.get(ref, timeout=30)
    return caught.value


def test_an_exception_is_one_of_its_class_with_its_fields(module_cluster: Path) -> None:
    actor = Actor.remote()
    for name, (kind, _make, fields) in KINDS.items():
        for ref in (fails.remote(name), actor.fails_later.remote(name)):
            error = got(ref)
            assert isinstance(error, kind), (name, type(error))
            assert type(error.cause) is kind
            # Before Python 3.14 nobody could print a traceback with such a one in it.
            hidden = kind is Refuses and sys.version_info < (3, 14)
            assert error.__cause__ is (None if hidden else error.cause)
            for field, value in fields.items():
                assert getattr(error, field) == value, (name, field)
            assert f"{kind.__name__}" in error.traceback_str and "fails" in str(error)
            assert bool(error) and error.function_name.endswith(("fails", "fails_later"))
            traceback.format_exception(error)
            for again in (copy.copy(error), cloudpickle.loads(pickle.dumps(error))):
                assert isinstance(again, kind) and str(again) == str(error)
    assert Registry.known.count("Registered") == 1 and len(Registry.known) == 1

    async def met() -> None:
        await fails.remote("refuses")

    with pytest.raises(Refuses):
        asyncio.run(met())
    with pytest.raises(Refuses):
        fails.remote("refuses").future().result(timeout=30)


def test_the_text_of_an_exception_is_as_it_was(module_cluster: Path) -> None:
    for name in ("timeout", "file", "two files", "slots", "import", "syntax", "decoding", "http"):
        with pytest.raises(KINDS[name][0]) as raised:
            KINDS[name][1]()
        cause = got(fails.remote(name)).cause
        assert str(cause) == str(raised.value) and repr(cause) == repr(raised.value), name


class Lost:
    """It is pickled, and cannot be made again."""

    def __reduce__(self) -> tuple[Any, ...]:
        return make_again, ("the key",)


def make_again(key: str) -> object:
    return {}[key]


@nbray.remote(num_cpus=0)
def reads(value: object) -> object:
    return value


def test_an_argument_that_cannot_be_unpickled_shows_the_line_that_raised(
    module_cluster: Path,
) -> None:
    for argument in (Lost(), nbray.put(Lost())):
        with pytest.raises(KeyError) as told:
            nbray.get(reads.remote(argument), timeout=60)
        head, _, trace = str(told.value).partition("could not be computed:\n")
        assert "At least one of the input arguments" in head
        assert "in make_again\n    return {}[key]" in trace
        assert trace.rstrip().endswith("KeyError: 'the key'")


@nbray.remote
def fails_oddly() -> None:
    error = ValueError("said \ud800 and \udcff")
    error.add_note("noted \ud800")
    raise error


@nbray.remote
class Odd:
    def __repr__(self) -> str:
        return "shown \ud800"

    def fails(self) -> None:
        raise ValueError


def test_the_text_of_an_error_is_text_whatever_was_said(module_cluster: Path) -> None:
    error = got(fails_oddly.remote())
    assert error.args == ("said \ud800 and \udcff",)
    assert "ValueError: said \\ud800 and \\udcff\nnoted \\ud800\n" in str(error)
    assert str(error).encode() and error.traceback_str.encode()
    assert "repr=shown \\ud800" in str(got(Odd.remote().fails.remote())).encode().decode()


def test_what_led_to_an_exception_comes_along(module_cluster: Path) -> None:
    chained = nbray.remote(_from)
    cause = got(chained.remote(NoArguments)).cause
    assert isinstance(cause.__cause__, NoArguments) and cause.__suppress_context__
    assert "no more seats" in str(got(chained.remote(NoArguments)))
    cause = got(chained.remote(None)).cause
    assert cause.__cause__ is None and cause.__suppress_context__

    @nbray.remote
    def implicit() -> None:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("then")  # noqa: B904

    cause = got(implicit.remote()).cause
    assert isinstance(cause.__context__, KeyError) and not cause.__suppress_context__


def test_a_group_with_an_interrupt_is_a_group_of_errors(module_cluster: Path) -> None:
    @nbray.remote
    def group() -> None:
        raise BaseExceptionGroup("two", [ValueError("a"), KeyboardInterrupt()])

    error = got(group.remote())
    assert isinstance(error, BaseExceptionGroup) and isinstance(error, Exception)
    assert isinstance(error.cause.exceptions[1], KeyboardInterrupt)
    with pytest.raises(BaseExceptionGroup) as rest:
        try:
            raise error
        except* ValueError as found:
            assert found.exceptions[0].args == ("a",)
    assert "KeyboardInterrupt" in str(rest.value.exceptions)


@nbray.remote
def first(items: list[int]) -> int:
    return next(iter(items))


@nbray.remote
def ends_the_loop() -> None:
    raise StopAsyncIteration


def test_the_end_of_an_iterator_is_caught_where_a_task_raises_it(module_cluster: Path) -> None:
    @nbray.remote
    class Walker:
        def __init__(self, items: list[int]) -> None:
            self.items = iter(items)

        def next(self) -> int:
            return next(self.items)

        def walk(self) -> list[int]:
            return [nbray.get(ref) for ref in [first.remote([])]]

        def stream(self) -> Iterator[int]:
            yield 1
            yield nbray.get(first.remote([]))

    walker, seen = Walker.remote([1, 2]), []
    with pytest.raises(StopIteration) as caught:
        while True:
            seen.append(nbray.get(walker.next.remote(), timeout=30))
    assert seen == [1, 2]
    assert isinstance(caught.value, TaskError)
    assert type(caught.value.cause) is StopIteration
    assert "return next(self.items)" in str(caught.value)
    with pytest.raises(StopIteration):
        nbray.get([first.remote([1]), first.remote([])], timeout=30)
    with pytest.raises(StopIteration):
        nbray.get(walker.walk.remote(), timeout=30)
    with pytest.raises(StopIteration):
        first.remote([]).future().result(timeout=30)
    with pytest.raises(RuntimeError, match="generator raised StopIteration"):  # PEP 479
        nbray.get(list(walker.stream.remote())[-1], timeout=30)


def test_it_is_no_value_to_who_awaits_it(module_cluster: Path) -> None:
    async def wait(ref: Any) -> Any:
        return await ref

    async def wait_for_future(ref: Any) -> Any:
        return await asyncio.wait_for(ref.as_future(), 30)

    @nbray.remote
    class Waiting:
        async def wait(self, refs: list[Any]) -> Any:
            return await refs[0]

    ended, waiting = first.remote([]), Waiting.remote()
    for awaited in (wait, wait_for_future):
        with pytest.raises(RuntimeError, match=r"coroutine raised .*StopIteration") as caught:
            asyncio.run(awaited(ended))
        assert isinstance(caught.value.__cause__, TaskError)
    with pytest.raises(RuntimeError, match=r"coroutine raised .*StopIteration"):
        nbray.get(waiting.wait.remote([ended]), timeout=30)
    with pytest.raises(StopAsyncIteration):
        asyncio.run(wait(ends_the_loop.remote()))


def test_it_is_tried_again_as_any_other(module_cluster: Path, tmp_path: Path) -> None:
    @nbray.remote(max_retries=2, retry_exceptions=[StopIteration])
    def tries() -> None:
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        raise StopIteration

    with pytest.raises(StopIteration):
        nbray.get(tries.remote(), timeout=30)
    assert (tmp_path / "tries").read_text() == "xxx"


def test_a_constructor_that_raises_what_is_false_has_failed(module_cluster: Path) -> None:
    class Empty(Exception):
        def __len__(self) -> int:
            return 0

    @nbray.remote
    class Broken:
        def __init__(self) -> None:
            raise Empty

        async def use(self) -> None: ...

    with pytest.raises(nbray.exceptions.ActorDiedError) as caught:
        nbray.get(Broken.remote().use.remote(), timeout=30)
    assert caught.value.actor_init_failed


def test_joining_an_exception_that_ends_loops_harms_nobody() -> None:
    """An awaited class of two bases without StopIteration's own field ended the program."""
    program = (
        "import asyncio\nfrom nbray.exceptions import TaskError\n"
        "error = TaskError('f', 'text', StopIteration(5)).as_instanceof_cause()\n"
        "class Raises:\n def __await__(self):\n  return self\n def __next__(self):\n  raise error\n"
        "async def wait():\n return await Raises()\nprint(asyncio.run(wait()))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "5\n"), ran.stderr


def test_an_exception_that_cannot_be_read_here_is_its_text() -> None:
    class Elsewhere(Exception):
        pass

    Elsewhere.__module__ = Elsewhere.__qualname__ = "nowhere"
    module = type(sys)("nowhere")
    module.nowhere = Elsewhere  # type: ignore[attr-defined]
    sys.modules["nowhere"] = module
    try:
        sent = pickle.dumps(TaskError("f", "the text\n", Elsewhere("x")))
    finally:
        del sys.modules["nowhere"]
    read = pickle.loads(sent).as_instanceof_cause()
    assert type(read) is TaskError and read.cause is None
    assert read.traceback_str.startswith("the text\nThe exception itself cannot be read here: ")
    assert "nowhere" in read.traceback_str


def test_interrupts_in_a_worker_stay_there(module_cluster: Path) -> None:
    for error in (KeyboardInterrupt(), asyncio.CancelledError()):
        assert isinstance(got(nbray.remote(_raise).remote(error)), TaskCancelledError)


def test_arrays_in_an_exception_are_no_part_of_its_pickle() -> None:
    error = ValueError("rows")
    error.rows = np.ones(1_000_000)  # type: ignore[attr-defined]
    buffers: list[pickle.PickleBuffer] = []
    sent = cloudpickle.dumps(TaskError("f", "text", error), 5, buffers.append)
    assert len(sent) < 2000 and len(buffers) == 1
    again = pickle.loads(sent, buffers=buffers).cause
    assert again.rows.sum() == 1_000_000
