"""A `concurrent.futures.Executor` whose work runs as tasks of the cluster."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from nbray.api import cancel, get, remote
from nbray.api import wait as wait_for
from nbray.exceptions import GetTimeoutError
from nbray.object_ref import ObjectRef

T = TypeVar("T")


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*args, **kwargs)


def _call_each(function: Callable[..., T], chunk: list[tuple[Any, ...]]) -> list[T]:
    return [function(*args) for args in chunk]


class _TaskFuture(Future[Any]):
    """A future that cancels its task."""

    ref: ObjectRef

    def cancel(self) -> bool:
        """Cancel the task if it has not ended."""
        if not super().cancel():
            return False
        cancel(self.ref)
        return True


class NbrayExecutor(Executor):
    """Runs calls as tasks.

    Args:
        options: options of the tasks, as for `nbray.remote`.
    """

    def __init__(self, **options: Any) -> None:
        self._task = remote(_call).options(**options) if options else remote(_call)
        self._each = remote(_call_each).options(**options) if options else remote(_call_each)
        self._futures: dict[Future[Any], ObjectRef] = {}
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` as a task.

        Raises:
            RuntimeError: the executor was shut down.
        """
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        ref = self._task.remote(fn, args, kwargs)
        future = _TaskFuture()
        future.ref = ref
        self._futures[future] = ref
        ref.future().add_done_callback(lambda source: _settle(future, source))
        future.add_done_callback(lambda done: self._futures.pop(done, None))
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Like `map`, with results in order; ``timeout`` seconds in all, from this call on.

        Raises:
            RuntimeError: the executor was shut down. ValueError: ``chunksize`` is less than 1.
            TimeoutError: a result was not there in time.
        """
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        source = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(source, chunksize)), [])
        return _results([self._each.remote(fn, chunk) for chunk in chunks], deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the cluster goes on."""
        self._closed = True
        futures = dict(self._futures)
        if cancel_futures:
            for future in futures:
                future.cancel()
        elif wait and futures:
            wait_for(list(futures.values()), num_returns=len(futures))


def _settle(future: Future[Any], source: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    error = source.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(source.result())


def _results(refs: list[ObjectRef], deadline: float | None) -> Iterator[Any]:
    for ref in refs:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            yield from get(ref, timeout=left)
        except GetTimeoutError as error:
            raise TimeoutError(str(error)) from error
