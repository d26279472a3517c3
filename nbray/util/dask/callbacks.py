"""Who watches a computation: Dask's own callbacks with hooks for what happens in the cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from dask.callbacks import Callback
from dask.diagnostics.progress import ProgressBar


class RayCallback(NamedTuple):
    """The hooks of one `RayDaskCallback`; None where it has none."""

    ray_presubmit: Callable[..., Any] | None
    ray_postsubmit: Callable[..., Any] | None
    ray_pretask: Callable[..., Any] | None
    ray_posttask: Callable[..., Any] | None
    ray_postsubmit_all: Callable[..., Any] | None
    ray_finish: Callable[..., Any] | None


class RayCallbacks(NamedTuple):
    """The hooks of several, each kind by itself."""

    ray_presubmit: list[Callable[..., Any]]
    ray_postsubmit: list[Callable[..., Any]]
    ray_pretask: list[Callable[..., Any] | None]
    ray_posttask: list[Callable[..., Any] | None]
    ray_postsubmit_all: list[Callable[..., Any]]
    ray_finish: list[Callable[..., Any]]


class RayDaskCallback(Callback):
    """Called at each step of a computation; a context, or for all that follows by `register`.

    A class derived from it defines some of the hooks, with an underscore before their names; or
    they are given as keywords. Those of `dask.callbacks.Callback` are Dask's.

    Args:
        ray_presubmit: called with a task, its key and its dependencies' refs by key before the
            task is submitted. What it returns, if that is not None, is the task's value.
        ray_postsubmit: called with the same and the ref of the task's value.
        ray_pretask: called in the worker with the key and the values of the dependencies.
        ray_posttask: called in the worker with the key, the task's value, and what ``ray_pretask``
            has returned.
        ray_postsubmit_all: called with the refs that are computed, and the graph.
        ray_finish: called with the values.

    Examples:
        ```python
        class Submitted(RayDaskCallback):
            def _ray_postsubmit(self, task, key, deps, object_ref):
                print(key)

        with Submitted():
            collection.compute()
        ```
    """

    ray_active: ClassVar[set[RayCallback]] = set()

    def __init__(self, **hooks: Callable[..., Any]) -> None:
        for name in RayCallback._fields:
            if name in hooks:
                setattr(self, f"_{name}", hooks.pop(name))
        super().__init__(**hooks)

    @property
    def _ray_callback(self) -> RayCallback:
        return RayCallback(*(getattr(self, f"_{name}", None) for name in RayCallback._fields))

    def __enter__(self) -> RayDaskCallback:
        RayDaskCallback.ray_active.add(self._ray_callback)
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        RayDaskCallback.ray_active.discard(self._ray_callback)

    def register(self) -> None:
        """Have it called for all computations from now on."""
        RayDaskCallback.ray_active.add(self._ray_callback)
        super().register()

    def unregister(self) -> None:
        """Have it called no more."""
        RayDaskCallback.ray_active.discard(self._ray_callback)
        super().unregister()


class ProgressBarCallback(RayDaskCallback):
    """Dask's progress bar while something is computed here.

    Examples:
        ```python
        with ProgressBarCallback():
            collection.compute()
        ```
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar = ProgressBar()

    def __enter__(self) -> ProgressBarCallback:
        self._bar.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)
        self._bar.__exit__(*args)


@contextmanager
def local_ray_callbacks(
    callbacks: Iterable[RayDaskCallback | RayCallback] | None = None,
) -> Iterator[set[RayCallback]]:
    """Inside, a computation has these callbacks; what it computes within itself has none.

    Args:
        callbacks: None for those that are active.

    Yields:
        Their hooks.
    """
    if callbacks is not None:
        yield {one._ray_callback if isinstance(one, RayDaskCallback) else one for one in callbacks}
        return
    active, RayDaskCallback.ray_active = RayDaskCallback.ray_active, set()
    try:
        yield active
    finally:
        RayDaskCallback.ray_active = active


def unpack_ray_callbacks(callbacks: Iterable[RayCallback]) -> RayCallbacks:
    """The hooks of several callbacks, each kind by itself.

    Those of workers go in pairs, so that None stands for one that is not there.
    """
    found = RayCallbacks([], [], [], [], [], [])
    for one in callbacks:
        in_pairs = one.ray_pretask is not None or one.ray_posttask is not None
        for name in RayCallbacks._fields:
            hook, hooks = getattr(one, name), getattr(found, name)
            if hook is not None or (in_pairs and name in ("ray_pretask", "ray_posttask")):
                hooks.append(hook)
    return found
