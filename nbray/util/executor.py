"""A `concurrent.futures.Executor` whose work runs as tasks of the cluster."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

from nbray.calls.api import cancel, remote
from nbray.calls.api import wait as wait_for
from nbray.calls.remote_function import RemoteFunction
from nbray.core_worker.values.callbacks import CallbackFuture
from nbray.object_ref import ObjectRef

T = TypeVar("T")


def _call(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    return function(*args, **kwargs)


def _call_each(function: Callable[..., T], chunk: list[tuple[Any, ...]]) -> list[T]:
    return [function(*args) for args in chunk]


class _TaskFuture(CallbackFuture):
    """A future that cancels its task."""

    def __init__(self, ref: ObjectRef) -> None:
        super().__init__(ref._kin.core.values.callbacks)
        self.ref = ref

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

    Examples:
        >>> from nbray.util.executor import NbrayExecutor
        >>> with NbrayExecutor(num_cpus=1) as executor:
        ...     future = executor.submit(pow, 2, 10)
        ...     print(future.result(), list(executor.map(abs, [-1, 2])))
        1024 [1, 2]
    """

    def __init__(self, **options: Any) -> None:
        self._task = remote(_call).options(**options) if options else remote(_call)
        self._each = remote(_call_each).options(**options) if options else remote(_call_each)
        self._futures: dict[Future[Any], ObjectRef] = {}
        self._closed = False

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Run ``fn(*args, **kwargs)`` as a task.

        Args:
            fn: the function.
            args: its arguments.
            kwargs: its arguments by name.

        Returns:
            A future; to cancel it cancels the task.

        Raises:
            RuntimeError: the executor was shut down.
        """
        return self._start(self._task, fn, args, kwargs)

    def _start(self, task: RemoteFunction, *args: Any) -> Future[Any]:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future = _TaskFuture(task.remote(*args))
        self._futures[future] = future.ref
        future.add_done_callback(lambda done: self._futures.pop(done, None))
        future.ref._kin.core.settle(future.ref, future)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[T]:
        """Like `map`, with results in order; ``timeout`` seconds in all, from this call on.

        Args:
            fn: the function.
            iterables: its arguments, one of each for a call.
            timeout: seconds for all results; None: any time.
            chunksize: calls that are one task.

        Returns:
            An iterator over the results.

        Raises:
            RuntimeError: the executor was shut down. ValueError: ``chunksize`` is less than 1.
            TimeoutError: a result was not there in time.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        source = zip(*iterables, strict=False)
        chunks = iter(lambda: list(itertools.islice(source, chunksize)), [])
        return _results([self._start(self._each, fn, chunk) for chunk in chunks], deadline)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; the cluster goes on.

        Args:
            wait: until all calls have ended, those of `map` too.
            cancel_futures: cancel what has not ended, also what runs.
        """
        self._closed = True
        refs = list(self._futures.values())
        if cancel_futures:
            for future in list(self._futures):
                future.cancel()
        if wait and refs:
            wait_for(refs, num_returns=len(refs))


def _results(futures: list[Future[Any]], deadline: float | None) -> Iterator[Any]:
    try:
        for future in futures:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            yield from future.result(left)
    finally:
        for future in futures:
            future.cancel()


RayExecutor = NbrayExecutor
