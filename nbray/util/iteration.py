"""Results as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from nbray.calls.api import get, wait
from nbray.calls.remote_function import RemoteFunction
from nbray.object_ref import ObjectRef


def as_completed(
    refs: Sequence[ObjectRef],
    *,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Yield the values of ``refs`` as they are ready.

    Args:
        refs: what to wait for.
        chunk_size: how many are waited for at once, to wait less often.
        yield_obj_refs: yield the refs rather than their values.
        kwargs: further arguments of `nbray.wait`, as ``timeout``.

    Returns:
        An iterator over values, or refs.

    Raises:
        ValueError: ``chunk_size`` is less than 1, or ``num_returns`` was given, which it is here.

    Examples:
        >>> import time
        >>> from nbray.util import as_completed
        >>> @nbray.remote(num_cpus=0)
        ... def after(seconds):
        ...     time.sleep(seconds)
        ...     return seconds
        >>> list(as_completed([after.remote(2), after.remote(0)], chunk_size=1))
        [0, 2]
    """
    _check(chunk_size, kwargs)
    waiting = list(refs)
    while waiting:
        ready, waiting = wait(waiting, num_returns=min(chunk_size, len(waiting)), **kwargs)
        yield from ready if yield_obj_refs else get(ready)


def map_unordered(
    fn: RemoteFunction | Callable[..., ObjectRef],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = 100,
    chunk_size: int = 10,
    yield_obj_refs: bool = False,
    **kwargs: Any,
) -> Iterator[Any]:
    """Run a remote function on each item, and yield the results as they are ready.

    Args:
        fn: a remote function or an actor's method.
        items: its argument, one by one.
        backpressure_size: most tasks that are unfinished at once; None: any number.
        chunk_size: as for `as_completed`.
        yield_obj_refs: as for `as_completed`.
        kwargs: as for `as_completed`.

    Returns:
        An iterator over values, or refs.

    Raises:
        ValueError: ``chunk_size`` or ``backpressure_size`` is impossible.

    Examples:
        >>> from nbray.util import map_unordered
        >>> @nbray.remote
        ... def square(x):
        ...     return x * x
        >>> sorted(map_unordered(square, range(4)))
        [0, 1, 4, 9]
    """
    if backpressure_size is not None and backpressure_size < 1:
        raise ValueError("backpressure_size must be positive.")
    _check(chunk_size, kwargs)
    remote: Callable[[Any], ObjectRef] = fn.remote if hasattr(fn, "remote") else fn
    source = iter(items)
    waiting = [remote(item) for item in islice(source, backpressure_size)]
    while waiting:
        ready, waiting = wait(waiting, num_returns=min(chunk_size, len(waiting)), **kwargs)
        waiting += [remote(item) for item in islice(source, len(ready))]
        yield from ready if yield_obj_refs else get(ready)


def _check(chunk_size: int, further: Mapping[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError("`chunk_size` must be >= 1")
    if "num_returns" in further:
        raise ValueError("Use the `chunk_size` argument instead of `num_returns`.")
