"""What cannot be is refused where it is written, with the exceptions and texts that Ray has."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.actor import ActorClassInheritanceException
from nbray.calls.placement_group import PlacementGroup
from nbray.calls.signatures import CallCheck, parameters_of
from nbray.common.ids import ActorID


def two(a: int, b: int) -> int:
    return a + b


def default(a: int, b: int = 2) -> int:
    return a + b


def keyword_only(a: int, *, b: int) -> int:
    return a + b


def anything(*args: int, **kwargs: int) -> int:
    return len(args) + len(kwargs)


def positional_only(a: int, b: int = 1, /, *rest: int, c: int = 3, **kw: int) -> int:
    return a + b + c + len(rest) + len(kw)


@pytest.mark.parametrize("function", [two, default, keyword_only, anything, positional_only])
@given(
    args=st.lists(st.integers(), max_size=4),
    kwargs=st.dictionaries(st.sampled_from("abcd"), st.integers(), max_size=3),
)
def test_a_check_agrees_with_the_call(
    function: Callable[..., int], args: list[int], kwargs: dict[str, int]
) -> None:
    try:
        function(*args, **kwargs)
        fits = True
    except TypeError:
        fits = False
    check = CallCheck(parameters_of(function))
    if fits:
        check(tuple(args), kwargs)
    else:
        with pytest.raises(TypeError):
            check(tuple(args), kwargs)


@nbray.remote
def add(a: int, b: int = 1) -> int:
    return a + b


@nbray.remote
class Counter:
    step = 1

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def inc(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @staticmethod
    def same(value: int) -> int:
        return value

    @classmethod
    def size(cls) -> int:
        return cls.step


@nbray.remote
def call(handle: Any, *args: Any) -> int:
    value: int = nbray.get(handle.inc.remote(*args))
    return value


MISSING, MANY = "missing a required argument: 'a'", "too many positional arguments"


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda c: add.remote(), MISSING),
        (lambda c: add.remote(1, 2, 3), MANY),
        (lambda c: add.remote(1, c=2), "got an unexpected keyword argument 'c'"),
        (lambda c: add.remote(1, a=2), "multiple values for argument 'a'"),
        (lambda c: Counter.remote(1, 2), MANY),
        (lambda c: Counter.options(num_cpus=0).remote(z=1), "unexpected keyword argument 'z'"),
        (lambda c: c.inc.remote(1, 2), MANY),
        (lambda c: c.same.remote(), "missing a required argument: 'value'"),
        (lambda c: c.size.remote(1), MANY),
        (lambda c: nbray.get(nbray.put([c]))[0].inc.remote(x=1), "unexpected keyword argument 'x'"),
        (lambda c: nbray.get_actor("checked").inc.remote(1, 2), MANY),
        (lambda c: nbray.put(nbray.put(1)), "Calling 'put' on an nbray.ObjectRef is not allowed"),
        (lambda c: nbray.put(threading.Lock()), "Could not serialize the put value"),
        (lambda c: nbray.wait(nbray.put(1)), "got a single nbray.ObjectRef"),
        (lambda c: nbray.wait([nbray.put(1)], num_returns=0.5), "a whole number, not 0.5"),
        (lambda c: nbray.wait([1]), "got list containing <class 'int'>"),
        (lambda c: nbray.cancel(c), r"only supported for object refs. For actors, try nbray.kill"),
        (lambda c: nbray.get_actor("x", namespace=3), "namespace must be None or a string."),
        (lambda c: nbray.remote(add), "must be applied to either a function or a class."),
        (lambda c: add(1), r"Instead of running '\S*add\(\)', try '\S*add.remote\(\)'"),
    ],
)
def test_calls_that_cannot_be(counter: Any, wrong: Callable[[Any], Any], text: str) -> None:
    with pytest.raises(TypeError, match=text):
        wrong(counter)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: nbray.kill(add), r"only supported for actors. For tasks, try nbray.cancel\(\)"),
        (lambda: nbray.get_actor("nobody"), "Failed to look up actor with name 'nobody'"),
        (lambda: nbray.get_actor(""), "Please supply a non-empty value to get_actor"),
        (lambda: nbray.get_actor("x", namespace=""), '"" is not a valid namespace'),
        (lambda: Counter.options(name="").remote(), "Actor name cannot be an empty string"),
        (lambda: Counter.options(name="a", namespace="").remote(), '"" is not a valid namespace'),
    ],
)
def test_names_that_cannot_be(counter: Any, wrong: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        wrong()


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An actor on a cluster that the checks of this module share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBRAY_TMPDIR", str(tmp_path_factory.mktemp("sessions", numbered=True)))
        patch.setenv("NBRAY_INCLUDE_DASHBOARD", "0")
        nbray.init(num_cpus=1)
        yield Counter.options(name="checked").remote()
        nbray.shutdown()


def test_handles_are_known_by_their_actor(counter: Any) -> None:
    other = nbray.get_actor("checked")
    assert other == counter and len({other, counter}) == 1 and counter != Counter.remote()
    assert isinstance(counter._actor_id, ActorID) and counter._actor_id.hex() in repr(counter)
    assert {"inc", "same", "size"} <= set(dir(counter))
    with pytest.raises(AttributeError, match="'ActorHandle' object has no attribute 'nope'"):
        counter.nope.remote()
    before = nbray.get(counter.inc.remote())
    assert nbray.get(call.remote(counter, 2)) == before + 2
    with pytest.raises(TypeError, match="too many positional"):  # a handle that was sent knows, too
        nbray.get(call.remote(counter, 1, 2))
    assert nbray.get([counter.same.remote(4), counter.size.remote()]) == [4, 1]


def test_remote_with_options_in_one_call(counter: Any) -> None:
    assert nbray.get(add._remote(args=[1], kwargs={"b": 4})) == 5
    assert nbray.get(add._remote(args=[1], num_cpus=0.5)) == 2
    assert add._remote(args=[1], num_returns=0) is None
    actor = Counter._remote(args=[3], num_cpus=0)
    assert nbray.get(actor.inc._remote(kwargs={"by": 2})) == 5


@nbray.remote
def names(**kwargs: Any) -> list[str]:
    return sorted(kwargs)


@nbray.remote
class Named:
    def __init__(this, **kwargs: Any) -> None:
        this.given = sorted(kwargs)

    def names(this, **kwargs: Any) -> list[str]:
        return this.given + sorted(kwargs)


def test_libraries_find_what_was_made_remote(counter: Any) -> None:
    assert vars(Counter.__ray_actor_class__)["inc"] and Counter.__ray_actor_class__ is not Counter
    assert Counter.__ray_metadata__.modified_class is Counter.__ray_actor_class__
    assert Counter.__ray_metadata__.class_name == "Counter"
    assert add._function_name == f"{__name__}.add" and add._function(1, 2) == 3

    class Derived(Counter.__ray_metadata__.modified_class):  # type: ignore[misc]
        pass

    assert nbray.get(nbray.remote(Derived).remote(3).inc.remote()) == 4


def test_a_number_of_refs_may_be_the_result_of_a_division(counter: Any) -> None:
    refs = [nbray.put(i) for i in range(4)]
    for half in (len(refs) / 2, np.int64(2), np.float64(2)):
        assert nbray.wait(refs, num_returns=half) == (refs[:2], refs[2:])  # type: ignore[arg-type]


def test_a_deadline_that_is_over_is_a_timeout(counter: Any) -> None:
    never = add.options(num_cpus=100).remote(1, 2)
    with pytest.raises(nbray.exceptions.GetTimeoutError):
        nbray.get(never, timeout=-1)
    nbray.cancel(never)


def test_arguments_have_any_names(counter: Any) -> None:
    every = dict.fromkeys(("self", "args", "kwargs", "function", "name", "options", "cls"), 1)
    assert nbray.get(names.remote(**every)) == sorted(every)
    assert nbray.get(names.bind(**every).execute()) == sorted(every)
    actor = Named.remote(**every)
    assert nbray.get(actor.names.remote(**every)) == 2 * sorted(every)
    assert nbray.get(actor.names.bind(**every).execute()) == 2 * sorted(every)
    assert nbray.get(Named.bind(**every).names.bind(**every).execute()) == 2 * sorted(every)
    with nbray.dag.InputNode() as given:
        graph = nbray.remote(lambda one: one).bind(given["self"])
    assert nbray.get(graph.execute(self=3)) == 3


def test_what_is_too_large_to_be_code_is_refused(counter: Any) -> None:
    data = np.zeros(13 << 20)
    with pytest.raises(ValueError, match=r"too large \(104 MiB > FUNCTION_SIZE_ERROR_THRESHOLD=95"):
        nbray.remote(lambda: data.sum()).remote()


COUNT, COUNT_OR_ALWAYS = (
    "only accepts None, 0 or a positive",
    "only accepts None, 0, -1 or a positive",
)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"num_cpus": float("nan")}, ValueError, "num_cpus must be a number, not nan"),
        ({"memory": float("inf")}, ValueError, "memory must be a number, not inf"),
        ({"num_cpus": -1}, ValueError, "The quantity of resource num_cpus cannot be negative"),
        ({"num_gpus": -1}, ValueError, "The quantity of resource num_gpus cannot be negative"),
        ({"num_gpus": 1.5}, ValueError, "GPU resource quantities >1 must be whole numbers"),
        ({"memory": -1}, ValueError, "The quantity of resource memory cannot be negative"),
        ({"resources": {"R": -1}}, ValueError, "The quantity of resource R cannot be negative"),
        ({"num_cpus": 1e-5}, ValueError, "num_cpus cannot go beyond 0.0001"),
        (
            {"num_cpus": "x"},
            TypeError,
            r"keyword 'num_cpus' must be \(<class 'float'>, <class 'int'",
        ),
        (
            {"resources": {"CPU": 1}},
            ValueError,
            "Use the 'num_cpus' and 'num_gpus' keyword instead",
        ),
        ({"runtime_env": 3}, TypeError, "The type of keyword 'runtime_env' must be"),
        ({"nope": 1}, ValueError, "Invalid option keyword nope for"),
        (
            {"placement_group": PlacementGroup.empty(), "scheduling_strategy": "SPREAD"},
            ValueError,
            "should be specified via the scheduling_strategy option",
        ),
    ],
)
def test_options_of_both(options: dict[str, Any], kind: type[Exception], text: str) -> None:
    for wrong in (
        lambda: add.options(**options),
        lambda: Counter.options(**options),
        lambda: nbray.remote(**options)(two),
    ):
        with pytest.raises(kind, match=text):
            wrong()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_retries": -2}, COUNT_OR_ALWAYS),
        ({"max_calls": -1}, COUNT),
        ({"num_returns": -1}, "num_returns must be >= 0, but got -1"),
        ({"retry_exceptions": [3]}, "must be either a boolean or a list of exceptions"),
        ({"_generator_backpressure_num_objects": 0}, "=0 is not allowed"),
        ({"max_restarts": 1}, "Invalid option keyword max_restarts for remote functions"),
    ],
)
def test_options_of_tasks(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        add.options(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_restarts": -2}, COUNT_OR_ALWAYS),
        ({"max_task_retries": -2}, COUNT_OR_ALWAYS),
        ({"max_pending_calls": -2}, COUNT_OR_ALWAYS),
        ({"max_concurrency": -1}, COUNT),
        ({"lifetime": "x"}, "must be one of 'detached', 'non_detached' and 'None'"),
        ({"get_if_exists": True}, "The actor name must be specified to use `get_if_exists`"),
        ({"concurrency_groups": {"a": 1}}, "'concurrency_groups' is not supported in '.options"),
        ({"max_retries": 1}, "Invalid option keyword max_retries for actors"),
    ],
)
def test_options_of_actors(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Counter.options(**options)


def test_decorators_that_are_used_wrongly() -> None:
    for wrong in (
        lambda: nbray.remote(),
        lambda: nbray.remote(3),
        lambda: nbray.remote(two, num_cpus=1),
        lambda: nbray.remote(two, two),
    ):
        with pytest.raises(AssertionError, match="must be applied either with no arguments"):
            wrong()
    with pytest.raises(
        AssertionError, match=r"Unexpected keyword argument to @nbray.method: 'nope'"
    ):
        nbray.method(nope=1)
    with pytest.raises(ValueError, match="num_returns must be >= 0, but got -1"):
        nbray.method(num_returns=-1)
    assert nbray.method(two) is two
    with pytest.raises(ActorClassInheritanceException, match="'Counter'"):

        class Derived(Counter):
            pass

    assert Counter.step == 1 and repr(Counter) == "ActorClass(Counter)"
    with pytest.raises(
        AttributeError, match=r"'ActorClass\(Counter\)' object has no attribute 'nope'"
    ):
        _ = Counter.nope


def test_wrong_ids_and_coroutine_functions_are_refused() -> None:
    assert nbray.JobID.from_int(1).hex() == "01000000" and nbray.JobID.from_int(7).int() == 7
    with pytest.raises(ValueError, match=r"^ID string needs to have length 28, got 2$"):
        nbray.NodeID(b"ab")
    with pytest.raises(TypeError, match=r"^Unsupported type: <class 'str'>, expected bytes$"):
        nbray.ObjectRef("a" * 28)
    assert isinstance(nbray.WorkerID.from_random(), nbray.UniqueID)

    with pytest.raises(AssertionError, match=r"^The @nbray.method decorator must be applied"):
        nbray.method(3)

    async def coroutine() -> None: ...

    with pytest.raises(ValueError, match=r"^'async def' should not be used for remote tasks"):
        nbray.remote(coroutine)
