"""A scheduler for Dask: each task of a graph is a task of the cluster, submitted at once.

Dependencies are refs, so that the cluster knows what waits for what, and values move between its
workers and never by the driver. Each task gives a second object, which says that it is done: that
is what is held and waited for, so that a value goes when no task needs it any more, and the first
error is heard of while others run. What fails or is interrupted takes along what is not done.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dask.base
import dask.config
from dask._task_spec import Alias, DataNode, GraphNode, Task, convert_legacy_graph
from dask.callbacks import local_callbacks, unpack_callbacks
from dask.order import order
from dask.sizeof import sizeof
from dask.utils import key_split

from nbray.calls.api import cancel, get, put, remote, wait
from nbray.common.text import as_name
from nbray.object_ref import ObjectRef
from nbray.util.dask.callbacks import RayCallbacks, local_ray_callbacks, unpack_ray_callbacks

_LARGE = 100_000
_LEAST_WAIT_S = 0.1
_LOOKS = 20
_NO_OPTIONS: dict[str, Any] = {}
_RESOURCES = (
    'Use ray_remote_args={"resources": {...}} instead of resources={...}: in dask.annotate() and '
    "in compute() they are options of a remote function."
)


def enable_dask_on_ray(
    shuffle: str | None = "tasks", use_shuffle_optimization: bool | None = True
) -> Any:
    """Have Dask compute on this cluster from now on, or inside of a ``with``.

    Args:
        shuffle: how data frames are shuffled: by "tasks", which needs no common disk.
        use_shuffle_optimization: has no effect; for programs that were written for Ray.

    Returns:
        The change of Dask's configuration, which is a context.

    Examples:
        ```python
        with enable_dask_on_ray():
            dask.array.random.random((4000, 4000)).sum().compute()
        ```
    """
    return dask.config.set({"scheduler": ray_dask_get, "dataframe.shuffle.method": shuffle})


def disable_dask_on_ray() -> Any:
    """Have Dask compute by itself again.

    Returns:
        The change of Dask's configuration, which is a context.
    """
    return dask.config.set({"scheduler": None, "dataframe.shuffle.method": None})


def ray_dask_get(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """Compute keys of a graph on the cluster; ``scheduler=ray_dask_get`` of Dask's functions.

    Args:
        dsk: the graph, or an expression of Dask's.
        keys: a key, or lists of them.
        kwargs: ``ray_remote_args``: options of all tasks. ``ray_callbacks``: in place of those
            that are active. ``ray_persist``: give refs, and do not wait. Others of Dask's
            schedulers have no effect.

    Returns:
        The values, in lists as ``keys`` are.

    Raises:
        Exception: what a task raised.

    Examples:
        ```python
        dask.compute(collection, scheduler=ray_dask_get)
        ```
    """
    persist = kwargs.pop("ray_persist", False)
    options = _Options(dsk, kwargs)
    graph = convert_legacy_graph(_mapping_of(dsk))
    with (
        local_callbacks(kwargs.pop("callbacks", None)) as watching,
        local_ray_callbacks(kwargs.pop("ray_callbacks", None)) as hooks,
    ):
        work = _Work(graph, _flat(keys), options, unpack_ray_callbacks(hooks), watching)
        with work.told():
            work.submit()
            found = work.wanted if persist else work.values()
            result = _nested(keys, found)
            work.finished(result)
    return result


def ray_dask_get_sync(dsk: Any, keys: Any, **kwargs: Any) -> Any:
    """`ray_dask_get` itself, which submits from the thread that calls it."""
    return ray_dask_get(dsk, keys, **kwargs)


class _Work:
    """One computation.

    Attributes:
        wanted: the refs, or the values that need no task, of the keys that are wanted.
    """

    def __init__(
        self, graph: Mapping[Any, GraphNode], keys: Sequence[Any], options: _Options,
        hooks: RayCallbacks, watching: Any,
    ) -> None:  # fmt: skip
        self.wanted: dict[Any, Any] = dict.fromkeys(keys)
        self._graph = {key: graph[key] for key in _needed(graph, keys)}
        self._options = options
        self._hooks = hooks
        self._watching = watching
        *_, self._before, self._after, _ = unpack_callbacks(watching)
        self._done: list[ObjectRef] = []
        self._seen: dict[ObjectRef, tuple[Any, ObjectRef]] = {}  # of those, when somebody watches
        # What Dask's own callbacks look into.
        self._state: dict[str, Any] = {
            "waiting": dict.fromkeys(self._graph), "ready": [], "running": set(),
            "finished": set(), "cache": {},
        }  # fmt: skip

    @contextmanager
    def told(self) -> Iterator[None]:
        """Inside, the computation goes on; what is not done at an error is cancelled."""
        began, done = [], False
        try:
            for one in self._watching:
                if one[0]:
                    one[0](self._graph)
                began.append(one)
            for _, begins, *_ in self._watching:
                if begins:
                    begins(self._graph, self._state)
            yield
            done = True
        finally:
            if not done:
                for ref in self._done:
                    cancel(ref)
            for *_, ends in began:
                if ends:
                    ends(self._graph, self._state, not done)

    def submit(self) -> None:
        """Submit all tasks; of values that only tasks need, no ref is kept."""
        graph, values = self._graph, dict[Any, Any]()
        readers = Counter(needed for node in graph.values() for needed in node.dependencies)
        place = order(graph)
        for key in sorted(graph, key=place.__getitem__):
            node = graph[key]
            values[key] = self._value_of(key, node, {d: values[d] for d in node.dependencies})
            for needed in node.dependencies:
                readers[needed] -= 1
                if not readers[needed] and needed not in self.wanted:
                    del values[needed]
        for key in self.wanted:
            self.wanted[key] = values[key]
        for hook in self._hooks.ray_postsubmit_all:
            hook(list(self.wanted.values()), graph)

    def _value_of(self, key: Any, node: GraphNode, needed: dict[Any, Any]) -> Any:
        for hook in self._hooks.ray_presubmit:
            instead = hook(node, key, needed)
            if instead is not None:
                return instead
        if isinstance(node, Alias):
            return needed[getattr(node.target, "key", node.target)]
        if isinstance(node, DataNode):
            return _held(node.value)
        hooks, kept = self._hooks, list(dict.fromkeys(_refs_in(node)))
        ref, done = self._options.function_of(key).remote(
            node, key, hooks.ray_pretask, hooks.ray_posttask, tuple(needed), kept,
            *needed.values(), *kept,
        )  # fmt: skip
        self._done.append(done)
        for hook in hooks.ray_postsubmit:
            hook(node, key, needed, ref)
        if self._watching:
            self._seen[done] = key, ref
            del self._state["waiting"][key]
            self._state["running"].add(key)
            for before in self._before:
                before(key, self._graph, self._state)
        return ref

    def values(self) -> dict[Any, Any]:
        """The values that are wanted, when all is done.

        Raises:
            Exception: a task raised it; it is not waited for what else runs.
        """
        if self._watching:
            self._watch()
        get(self._done)
        awaited = [ref for ref in self.wanted.values() if isinstance(ref, ObjectRef)]
        found = dict(zip(awaited, get(awaited), strict=True))
        return {
            key: found[value] if isinstance(value, ObjectRef) else value
            for key, value in self.wanted.items()
        }

    def _watch(self) -> None:
        """Tell Dask's own callbacks which tasks end, as they do."""
        wait_s = _LEAST_WAIT_S
        while self._seen:
            began = time.thread_time()
            ended, _ = wait(list(self._seen), num_returns=len(self._seen), timeout=wait_s)
            get(ended)
            for done in ended:
                key, ref = self._seen.pop(done)
                self._state["running"].discard(key)
                self._state["finished"].add(key)
                for after in self._after:
                    after(key, ref, self._graph, self._state, "cluster")
            wait_s = max(_LEAST_WAIT_S, _LOOKS * (time.thread_time() - began))

    def finished(self, result: Any) -> None:
        """The values, or refs of them, are there."""
        for hook in self._hooks.ray_finish:
            hook(result)


class _Options:
    """The options of tasks: of the call, of `dask.annotate` around it, and of a task itself."""

    def __init__(self, dsk: Any, given: dict[str, Any]) -> None:
        around = dask.base.get_annotations()
        notes = _annotations_of(dsk)
        if "resources" in given or "resources" in around or "resources" in notes:
            raise ValueError(_RESOURCES)
        self._common = {**given.pop("ray_remote_args", {}), **around.get("ray_remote_args", {})}
        self._own = notes.get("ray_remote_args", {})
        self._functions: dict[tuple[str, int], Any] = {}

    def function_of(self, key: Any) -> Any:
        """The remote function for a task; those of one kind have one name and are one."""
        own = self._own.get(key, _NO_OPTIONS)
        kind = as_name(f"dask:{key_split(key)}"), id(own)
        function = self._functions.get(kind)
        if function is None:
            function = _run.options(**{"name": kind[0], **self._common, **own, "num_returns": 2})
            self._functions[kind] = function
        return function


@remote
def _run(
    node: GraphNode, key: Any, before: Sequence[Callable[..., Any] | None],
    after: Sequence[Callable[..., Any] | None], needed: tuple[Any, ...],
    kept: list[ObjectRef], *values: Any,
) -> tuple[Any, None]:  # fmt: skip
    """One task, with the values of what it depends on, and of the refs that stand in it.

    The second object says that it is done.
    """
    values, others = values[: len(needed)], values[len(needed) :]
    states = [None if hook is None else hook(key, values) for hook in before]
    if kept:
        node = _opened(node, dict(zip(kept, others, strict=True)))
    result = node(dict(zip(needed, values, strict=True)))
    for hook, state in zip(after, states, strict=True):
        if hook is not None:
            hook(key, result, state)
    return result, None


def _refs_in(part: Any) -> Iterator[ObjectRef]:
    """Refs in a task: of what was persisted, and those that a program has put there."""
    if isinstance(part, ObjectRef):
        yield part
    elif isinstance(part, DataNode):
        yield from _refs_in(part.value)
    elif isinstance(part, Task):
        yield from _refs_in(part.args)
        yield from _refs_in(part.kwargs)
    elif type(part) in (list, tuple):
        for one in part:
            yield from _refs_in(one)
    elif type(part) is dict:
        yield from _refs_in(list(part.values()))


def _opened(part: Any, values: dict[ObjectRef, Any]) -> Any:
    """A task with values in the place of those refs."""
    if isinstance(part, ObjectRef):
        return values[part]
    if isinstance(part, DataNode):
        return DataNode(part.key, _opened(part.value, values))
    if isinstance(part, Task):
        part.args, part.kwargs = _opened(part.args, values), _opened(part.kwargs, values)
        return part
    if type(part) in (list, tuple):
        return type(part)(_opened(one, values) for one in part)
    if type(part) is dict:
        return {name: _opened(one, values) for name, one in part.items()}
    return part


def _held(value: Any) -> Any:
    """A value of the graph: a large one is put into the store once, for all that need it."""
    if isinstance(value, ObjectRef) or sizeof(value) < _LARGE:
        return value
    return put(value)


def _needed(graph: Mapping[Any, GraphNode], keys: Sequence[Any]) -> set[Any]:
    found, left = set[Any](), list(keys)
    while left:
        key = left.pop()
        if key not in found:
            found.add(key)
            left += graph[key].dependencies
    return found


def _mapping_of(dsk: Any) -> Mapping[Any, Any]:
    if isinstance(dsk, Mapping):
        return dsk
    graph: Mapping[Any, Any] = dsk.__dask_graph__()
    return graph


def _annotations_of(dsk: Any) -> dict[str, dict[Any, Any]]:
    """What was said of single tasks, by kind and key."""
    if hasattr(dsk, "__dask_annotations__"):
        return dict(dsk.__dask_annotations__())
    found: dict[str, dict[Any, Any]] = {}
    for layer in getattr(dsk, "layers", {}).values():
        for kind, note in (layer.annotations or {}).items():
            found.setdefault(kind, {}).update(dict.fromkeys(layer.get_output_keys(), note))
    return found


def _flat(keys: Any) -> list[Any]:
    return [one for part in keys for one in _flat(part)] if isinstance(keys, list) else [keys]


def _nested(keys: Any, values: Mapping[Any, Any]) -> Any:
    if isinstance(keys, list):
        return tuple(_nested(part, values) for part in keys)
    return values[keys]
