"""`multiprocessing.Pool` whose processes are actors of the cluster, as Ray has it."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import TimeoutError
from typing import Any

from nbray.actor import ActorClass, ActorHandle
from nbray.api import get, kill, wait
from nbray.cluster import cluster_resources
from nbray.driver import init, is_initialized
from nbray.exceptions import GetTimeoutError, NbrayError
from nbray.object_ref import ObjectRef

__all__ = ["AsyncResult", "Pool", "TimeoutError"]


class _Process:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(
        self, function: Callable[..., Any], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
    ) -> list[tuple[bool, Any]]:
        """The outcome of each call: whether it returned, and its value or its exception."""
        outcomes: list[tuple[bool, Any]] = []
        for args, kwargs in calls:
            try:
                outcomes.append((True, function(*args, **kwargs)))
            except Exception as error:  # the user's: it is raised where the result is asked for
                outcomes.append((False, error))
        return outcomes

    def pid(self) -> int:
        """Its process."""
        return os.getpid()


class AsyncResult:
    """The results of one call of a pool, to come.

    Args:
        refs: the outcomes of its chunks, in order.
        callback, error_callback: called with the result, or the first exception, when it is there.
        single: there is one result, not a list.
    """

    def __init__(
        self,
        refs: Sequence[ObjectRef],
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        single: bool = False,
    ) -> None:
        self._refs = list(refs)
        self._single = single
        if callback is not None or error_callback is not None:
            threading.Thread(
                target=self._call_back, args=(callback, error_callback), daemon=True
            ).start()

    def _call_back(
        self,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> None:
        try:
            result = self.get()
        except Exception as error:  # whatever the user's function raised
            if error_callback is not None:
                error_callback(error)
        else:
            if callback is not None:
                callback(result)

    def get(self, timeout: float | None = None) -> Any:
        """The result, or the list of results; raises what the function raised first.

        Raises:
            multiprocessing.TimeoutError: it was not there in ``timeout`` seconds.
        """
        try:
            chunks = get(self._refs, timeout=timeout)
        except GetTimeoutError as error:
            raise TimeoutError(str(error)) from error
        results = [_opened(outcome) for chunk in chunks for outcome in chunk]
        return results[0] if self._single else results

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there, or ``timeout`` seconds."""
        if self._refs:
            wait(self._refs, num_returns=len(self._refs), timeout=timeout)

    def ready(self) -> bool:
        """Whether it is there."""
        return not self._refs or not wait(self._refs, num_returns=len(self._refs), timeout=0)[1]

    def successful(self) -> bool:
        """Whether nothing was raised.

        Raises:
            ValueError: it is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        try:
            return all(returned for chunk in get(self._refs) for returned, _value in chunk)
        except NbrayError:  # the process that ran it died
            return False


def _opened(outcome: tuple[bool, Any]) -> Any:
    returned, value = outcome
    if not returned:
        raise value
    return value


class Pool:
    """Processes that calls are given to.

    Args:
        processes: how many; the cluster's CPUs by default.
        initializer, initargs: called in each process at its start.
        maxtasksperchild: chunks after which a process is replaced; None: never.
        ray_address: the cluster to join if this program is in none.
        ray_remote_args: options of the actors.
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        del context  # the standard library's choice of a start method has no meaning here
        if not is_initialized():
            init(address=ray_address)
        count = processes if processes is not None else int(cluster_resources().get("CPU", 1))
        if count < 1:
            raise ValueError("Processes in the pool must be >0.")
        self._actor = ActorClass(_Process, dict(ray_remote_args or {}))
        self._start = (initializer, tuple(initargs))
        self._most_calls = maxtasksperchild
        self._processes = [self._new() for _ in range(count)]
        self._calls = [0] * count
        self._next = itertools.cycle(range(count))
        self._running: list[ObjectRef] = []
        self._closed = False

    def _new(self) -> ActorHandle:
        return self._actor.remote(*self._start)

    def _run(self, function: Callable[..., Any], calls: list[Any]) -> ObjectRef:
        if self._closed:
            raise ValueError("Pool not running")
        index = next(self._next)
        if self._most_calls is not None and self._calls[index] >= self._most_calls:
            self._processes[index], self._calls[index] = self._new(), 0
        self._calls[index] += 1
        ref: ObjectRef = self._processes[index].run.remote(function, calls)
        if len(self._running) > 1000:
            self._running = wait(self._running, num_returns=len(self._running), timeout=0)[1]
        self._running.append(ref)
        return ref

    def apply(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """``func(*args, **kwargs)`` in a process; waits for its result."""
        return self.apply_async(func, args, kwargs).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Like `apply`, without waiting."""
        ref = self._run(func, [(tuple(args or ()), dict(kwargs or {}))])
        return AsyncResult([ref], callback, error_callback, single=True)

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``func(item)`` for each item; the list of results in order."""
        results: list[Any] = self.map_async(func, iterable, chunksize).get()
        return results

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        """Like `map`, without waiting."""
        calls: list[Any] = [((item,), {}) for item in iterable]
        refs = self._run_chunks(func, calls, chunksize)
        return AsyncResult(refs, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``func(*item)`` for each item; the list of results in order."""
        results: list[Any] = self.starmap_async(func, iterable, None, None, chunksize).get()
        return results

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        chunksize: int | None = None,
    ) -> AsyncResult:
        """Like `starmap`, without waiting."""
        calls: list[Any] = [(tuple(item), {}) for item in iterable]
        return AsyncResult(self._run_chunks(func, calls, chunksize), callback, error_callback)

    def _run_chunks(
        self, func: Callable[..., Any], calls: list[Any], chunksize: int | None
    ) -> list[ObjectRef]:
        if chunksize is None:  # as the standard library's pool does
            chunksize = max(1, -(-len(calls) // (len(self._processes) * 4)))
        starts = range(0, len(calls), chunksize)
        return [self._run(func, calls[start : start + chunksize]) for start in starts]

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Like `map`, yielding results in order as they come."""
        refs = self._run_chunks(func, [((item,), {}) for item in iterable], chunksize)
        return (_opened(outcome) for ref in refs for outcome in get(ref))

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1
    ) -> Iterator[Any]:
        """Like `imap`, in the order in which they are ready."""
        waiting = self._run_chunks(func, [((item,), {}) for item in iterable], chunksize)
        while waiting:
            (ready,), waiting = wait(waiting)
            yield from (_opened(outcome) for outcome in get(ready))

    def close(self) -> None:
        """Take no more calls."""
        self._closed = True

    def terminate(self) -> None:
        """End the processes at once."""
        self._closed = True
        for process in self._processes:
            kill(process)

    def join(self) -> None:
        """Wait for the calls that were given, and end the processes.

        Raises:
            ValueError: the pool takes calls still.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        if self._running:
            wait(self._running, num_returns=len(self._running))
        for process in self._processes:
            kill(process)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.terminate()
