"""`multiprocessing.Pool` whose processes are actors of the cluster, as Ray has it."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sized
from multiprocessing import JoinableQueue as JoinableQueue
from multiprocessing import TimeoutError
from typing import Any

from nbray.calls.actor import ActorClass
from nbray.calls.api import get, kill, wait
from nbray.calls.handles import ActorHandle
from nbray.driver.cluster import cluster_resources
from nbray.driver.driver import init, is_initialized
from nbray.object_ref import ObjectRef
from nbray.util.pool_results import (
    AsyncResult,
    Calls,
    Chunk,
    Failure,
    IMapIterator,
    Outcome,
    PoolTaskError,
)

__all__ = [
    "AsyncResult",
    "IMapIterator",
    "Pool",
    "PoolTaskError",
    "TimeoutError",
]


class _Process:
    """One process of a pool."""

    def __init__(self, initializer: Callable[..., Any] | None, initargs: tuple[Any, ...]) -> None:
        if initializer is not None:
            initializer(*initargs)

    def run(self, function: Callable[..., Any], calls: Calls) -> list[Outcome]:
        """The outcome of each call: whether it returned, and its value or its `Failure`."""
        outcomes: list[Outcome] = []
        for args, kwargs in calls:
            try:
                outcomes.append((True, function(*args, **kwargs)))
            except Exception as error:  # the user's: it is raised where the result is asked for
                outcomes.append((False, Failure.of(function, error, os.getpid())))
        return outcomes

    def pid(self) -> int:
        """Its process."""
        return os.getpid()


class Pool:
    """Processes that calls are given to. One that dies is replaced, and its calls fail.

    Args:
        processes: how many, at most the cluster's CPUs, which are the default; a cluster that is
            started for the pool has as many CPUs.
        initializer: called in each process at its start.
        initargs: its arguments.
        maxtasksperchild: chunks after which a process is replaced; None: never.
        context: has no effect.
        ray_address: the cluster to join if this program is in none.
        ray_remote_args: options of the actors.

    Raises:
        ValueError, TypeError: an argument is impossible.
        ActorDiedError: the initializer raised.

    Examples:
        >>> from nbray.util.multiprocessing import Pool
        >>> with Pool(2) as pool:
        ...     print(pool.map(abs, [-1, 2, -3]), pool.starmap(pow, [(2, 3), (3, 2)]))
        [1, 2, 3] [8, 9]
    """

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] | None = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
        ray_address: str | None = None,
        ray_remote_args: dict[str, Any] | None = None,
    ) -> None:
        del context  # the standard library's choice of a start method has no meaning here
        if processes is not None and processes < 1:
            raise ValueError("Processes in the pool must be >0.")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if maxtasksperchild is not None and (
            not isinstance(maxtasksperchild, int) or maxtasksperchild < 1
        ):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if not is_initialized():
            _join(ray_address, processes)
        cpus = int(cluster_resources().get("CPU", 0))
        count = max(1, cpus) if processes is None else processes
        if count > max(1, cpus):
            raise ValueError(
                f"Tried to start a pool with {count} processes on an existing cluster, but there "
                f"are only {cpus} CPUs in the cluster."
            )
        self._actor = ActorClass(_Process, {"num_cpus": 0, **(ray_remote_args or {})})
        self._start = (initializer, tuple(initargs or ()))
        self._most_calls = maxtasksperchild
        self._lock = threading.RLock()  # a finalizer of its thread may submit, too
        self._processes = [self._new() for _ in range(count)]
        self._calls = [0] * count
        self._next = 0
        self._running: list[ObjectRef] = []
        self._iterators: weakref.WeakSet[IMapIterator] = weakref.WeakSet()
        self._results: weakref.WeakSet[AsyncResult] = weakref.WeakSet()
        self._closed = self._ended = False
        try:
            get([process.pid.remote() for process in self._processes])
        except BaseException:
            self.terminate()
            raise

    def _new(self) -> ActorHandle:
        return self._actor.remote(*self._start)

    def lost(self, actor_id: str) -> None:
        """A process was found dead; another takes its place.

        Args:
            actor_id: of the process, as hexadecimal text.
        """
        with self._lock:
            for index, process in enumerate(self._processes):
                if process._id.hex() == actor_id and not self._ended:
                    self._processes[index], self._calls[index] = self._new(), 0

    def run(self, function: Callable[..., Any], calls: Calls, process: int | None) -> Chunk | None:
        """Give calls to a process, the next one by default; None when the pool was terminated.

        Args:
            function: what is called.
            calls: arguments and arguments by name, of each call.
            process: its number; None: the next one.

        Returns:
            The calls as they run, or None.
        """
        with self._lock:
            if self._ended:
                return None
            index = self._next if process is None else process
            self._next = (index + 1) % len(self._processes)
            if self._most_calls is not None and self._calls[index] >= self._most_calls:
                self._processes[index], self._calls[index] = self._new(), 0
            self._calls[index] += 1
            ref: ObjectRef = self._processes[index].run.remote(function, calls)
            if len(self._running) > 1000:
                self._running = wait(self._running, num_returns=len(self._running), timeout=0)[1]
            self._running.append(ref)
        return Chunk(ref, index, len(calls))

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")

    def _run(self, function: Callable[..., Any], calls: Calls) -> Chunk:
        chunk = self.run(function, calls, None)
        if chunk is None:
            raise ValueError("Pool not running")
        return chunk

    def _result(
        self,
        chunks: list[Chunk],
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
        single: bool = False,
    ) -> AsyncResult:
        result = AsyncResult(self, chunks, callback, error_callback, single)
        self._results.add(result)
        return result

    def apply(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> Any:
        """``func(*args, **kwargs)`` in a process; waits for its result.

        The standard library calls ``kwargs`` ``kwds``.

        Args:
            func: the function.
            args: its arguments.
            kwargs: its arguments by name.
            kwds: the standard library's name of ``kwargs``.

        Returns:
            Its result.
        """
        return self.apply_async(func, args, kwargs, kwds=kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        *,
        kwds: dict[str, Any] | None = None,
    ) -> AsyncResult:
        """Like `apply`, without waiting.

        Args:
            func: the function.
            args: its arguments.
            kwargs: its arguments by name.
            callback: called with the result.
            error_callback: called with what it raised.
            kwds: the standard library's name of ``kwargs``.

        Returns:
            The result to come.
        """
        self._check_running()
        chunk = self._run(func, [(tuple(args or ()), {**(kwargs or {}), **(kwds or {})})])
        return self._result([chunk], callback, error_callback, single=True)

    def map(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``func(item)`` for each item; the list of results in order.

        Args:
            func: the function.
            iterable: its argument, one by one.
            chunksize: calls that a process is given together; None chooses.

        Returns:
            The results.
        """
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
        """Like `map`, without waiting.

        Args:
            func: the function.
            iterable: its argument, one by one.
            chunksize: calls that a process is given together; None chooses.
            callback: called with the list of results.
            error_callback: called with the first exception.

        Returns:
            The results to come.
        """
        self._check_running()
        calls: Calls = [((item,), {}) for item in iterable]
        return self._result(self._run_chunks(func, calls, chunksize), callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None
    ) -> list[Any]:
        """``func(*item)`` for each item; the list of results in order.

        Args:
            func: the function.
            iterable: sequences of its arguments.
            chunksize: calls that a process is given together; None chooses.

        Returns:
            The results.
        """
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
        """Like `starmap`, without waiting.

        Args:
            func: the function.
            iterable: sequences of its arguments.
            callback: called with the list of results.
            error_callback: called with the first exception.
            chunksize: calls that a process is given together; None chooses.

        Returns:
            The results to come.
        """
        self._check_running()
        calls: Calls = [(tuple(item), {}) for item in iterable]
        return self._result(self._run_chunks(func, calls, chunksize), callback, error_callback)

    def _run_chunks(
        self, func: Callable[..., Any], calls: Calls, chunksize: int | None
    ) -> list[Chunk]:
        if chunksize is None:
            chunksize = self._chunksize(len(calls))
        _check_chunksize(chunksize)
        starts = range(0, len(calls), chunksize)
        return [self._run(func, calls[start : start + chunksize]) for start in starts]

    def _chunksize(self, count: int) -> int:
        """As the standard library's pool does."""
        return max(1, -(-count // (len(self._processes) * 4)))

    def imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """Like `map`, yielding results in order as they come; errors as `PoolTaskError`.

        Args:
            func: the function.
            iterable: its argument, one by one; it may be endless.
            chunksize: calls that a process is given together.

        Returns:
            An iterator over the results.
        """
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = 1
    ) -> IMapIterator:
        """Like `imap`, in the order in which results are ready.

        Args:
            func: the function.
            iterable: its argument, one by one; it may be endless.
            chunksize: calls that a process is given together.

        Returns:
            An iterator over the results.
        """
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None,
        ordered: bool,
    ) -> IMapIterator:
        self._check_running()
        if chunksize is None:
            chunksize = self._chunksize(len(iterable)) if isinstance(iterable, Sized) else 1
        _check_chunksize(chunksize)
        found = IMapIterator(self, func, iterable, chunksize, len(self._processes), ordered)
        self._iterators.add(found)
        return found

    def close(self) -> None:
        """Take no more calls; iterators that were begun go on."""
        self._closed = True

    def terminate(self) -> None:
        """End the processes at once."""
        self._closed = True
        with self._lock:
            self._ended = True
        for process in self._processes:
            kill(process)

    def join(self) -> None:
        """Wait for the calls that were given, and their callbacks, and end the processes.

        Raises:
            ValueError: the pool takes calls still.
        """
        if not self._closed:
            raise ValueError("Pool is still running")
        for iterator in list(self._iterators):
            iterator.take_all()
        if self._running:
            wait(self._running, num_returns=len(self._running))
        for result in list(self._results):
            result.wait()
        self.terminate()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.terminate()


def _join(address: str | None, processes: int | None) -> None:
    """Join a cluster, or start one with as many CPUs as the pool has processes."""
    if address is not None and address != "local":
        init(address=address)
        return
    try:
        init(address=address, num_cpus=processes)
    except ValueError:  # one runs that is to be joined, so its CPUs cannot be chosen
        init(address=address)


def _check_chunksize(chunksize: int) -> None:
    if chunksize < 1:
        raise ValueError(f"Chunksize must be 1+, not {chunksize}")
