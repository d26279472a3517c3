"""What calls of a `multiprocessing.Pool` give: results to come, and iterators over them."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import TimeoutError
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]
from typing import Any, NamedTuple, Protocol

from nbray import cloudpickle
from nbray.calls.api import get, wait
from nbray.exceptions import ActorDiedError, TaskError
from nbray.object_ref import ObjectRef

Calls = list[tuple[tuple[Any, ...], dict[str, Any]]]
Outcome = tuple[bool, Any]


class Failure(NamedTuple):
    """What a call raised, as it travels; whether it can be opened is seen when it is."""

    function: str
    trace: str
    pickled: bytes
    pid: int

    @classmethod
    def of(cls, function: Callable[..., Any], error: BaseException, pid: int) -> Failure:
        """What ``function`` raised, here."""
        name = getattr(function, "__qualname__", repr(function))
        inner = error.__traceback__.tb_next if error.__traceback__ is not None else None
        trace = "".join(traceback.format_exception(type(error), error, inner))
        pickled = b""
        for whole in (error, (type(error), error.args, error.__dict__)):
            try:
                pickled = cloudpickle.dumps(whole)
                cloudpickle.loads(pickled)
                break
            except Exception:  # a class that pickle cannot rebuild, or with what cannot be pickled
                pickled = b""
        return cls(name, trace, pickled, pid)

    def open(self) -> BaseException:
        """The exception, caused by its remote traceback; a `TaskError` when it cannot be had."""
        try:
            error = cloudpickle.loads(self.pickled)
            if isinstance(error, tuple):  # its constructor takes something else than its args
                kind, args, state = error
                error = kind.__new__(kind, *args)
                error.__dict__.update(state)
        except Exception:  # its module is not here
            error = None
        if not isinstance(error, BaseException):
            return TaskError(self.function, self.trace, None, self.pid)
        error.__cause__ = RemoteTraceback(f'\n"""\n{self.trace}"""')
        return error


class PoolTaskError(Exception):
    """Stands among the results of `Pool.imap` for one whose call raised, as in Ray.

    Attributes:
        underlying: what it raised, with its traceback as the cause.

    Examples:
        >>> from nbray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     one, none, two = pool.imap(lambda x: {"a": 1, "c": 2}[x], "abc")
        >>> one, type(none).__name__, none.underlying, two
        (1, 'PoolTaskError', KeyError('b'), 2)
    """

    def __init__(self, underlying: BaseException) -> None:
        super().__init__(underlying)
        self.underlying = underlying


class Chunk(NamedTuple):
    """Calls that one process was given together."""

    ref: ObjectRef
    process: int
    size: int


class Runner(Protocol):
    """What a pool does for its results."""

    def run(self, function: Callable[..., Any], calls: Calls, process: int | None) -> Chunk | None:
        """Give calls to a process; None when the pool was terminated."""

    def lost(self, actor_id: str) -> None:
        """A process was found dead."""


def outcomes_of(runner: Runner, chunk: Chunk) -> list[Outcome]:
    """One outcome for each call of a chunk that has ended."""
    try:
        found: list[Outcome] = get(chunk.ref)
    except ActorDiedError as error:
        runner.lost(error.actor_id)
        return [(False, error)] * chunk.size
    except Exception as error:  # a result that cannot be opened
        return [(False, error)] * chunk.size
    return found


def opened(outcome: Outcome) -> Any:
    """The result of a call; raises what it raised."""
    returned, value = outcome
    if returned:
        return value
    raise value.open() if isinstance(value, Failure) else value


def yielded(outcome: Outcome) -> Any:
    """The result of a call, or what stands for it among the results of an iterator."""
    returned, value = outcome
    if returned:
        return value
    return PoolTaskError(value.open()) if isinstance(value, Failure) else value


class AsyncResult:
    """The results of one call of a pool, to come.

    Args:
        runner: the pool.
        chunks: the calls, in order.
        callback: called with the result, before it counts as ready.
        error_callback: called with the first exception.
        single: there is one result, not a list.

    Examples:
        >>> from nbray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     result = pool.apply_async(pow, (2, 5))
        ...     print(result.get(timeout=30), result.successful())
        32 True
    """

    def __init__(
        self,
        runner: Runner,
        chunks: Sequence[Chunk],
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
        single: bool = False,
    ) -> None:
        self._runner = runner
        self._chunks = list(chunks)
        self._refs = [chunk.ref for chunk in chunks]
        self._single = single
        self._callbacks = (callback, error_callback)
        self._told = threading.Event()
        self._reporter = 0
        self._left = len(self._refs)
        self._lock = threading.Lock()
        if callback is None and error_callback is None:
            self._told.set()
        elif not self._refs:
            self._tell()
        for ref in [] if self._told.is_set() else self._refs:
            ref.future().add_done_callback(self._ended)

    def _ended(self, _done: object) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._tell()

    def _tell(self) -> None:
        callback, error_callback = self._callbacks
        self._reporter = threading.get_ident()
        try:
            try:
                result = self._results()
            except Exception as error:  # whatever the user's function raised
                if error_callback is not None:
                    error_callback(error)
            else:
                if callback is not None:
                    callback(result)
        finally:
            self._told.set()

    def _results(self) -> Any:
        chunks = [outcomes_of(self._runner, chunk) for chunk in self._chunks]
        results = [opened(outcome) for chunk in chunks for outcome in chunk]
        return results[0] if self._single else results

    def get(self, timeout: float | None = None) -> Any:
        """The result, or the list of results; raises what the function raised first.

        Args:
            timeout: seconds; None: any time.

        Returns:
            The result, or the list of results.

        Raises:
            multiprocessing.TimeoutError: it was not there in ``timeout`` seconds.
        """
        self.wait(timeout)
        if not self.ready():
            raise TimeoutError(f"The result was not there within {timeout} s.")
        return self._results()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until it is there, or ``timeout`` seconds.

        Args:
            timeout: seconds; None: any time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._refs:
            wait(self._refs, num_returns=len(self._refs), timeout=timeout)
        if self._reporter != threading.get_ident():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            self._told.wait(left)

    def ready(self) -> bool:
        """Whether it is there, and its callback has been called."""
        if not self._told.is_set() and self._reporter != threading.get_ident():
            return False
        return not self._refs or not wait(self._refs, num_returns=len(self._refs), timeout=0)[1]

    def successful(self) -> bool:
        """Whether nothing was raised.

        Raises:
            ValueError: it is not ready.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return all(
            returned for chunk in self._chunks for returned, _ in outcomes_of(self._runner, chunk)
        )


class IMapIterator:
    """The results of `Pool.imap` and `Pool.imap_unordered`.

    A process has one chunk of it at a time: the next one is taken from the iterable when a result
    of it has come, so that the iterable may be huge or endless. For a call that raised, a
    `PoolTaskError` comes in its place, and for those of a process that died its `ActorDiedError`,
    as in Ray; the standard library raises them.

    Args:
        runner: the pool.
        function: what is called.
        iterable: its argument, one by one.
        chunksize: calls that a process is given together.
        processes: how many processes work on it.
        ordered: whether results come in the order of ``iterable``.

    Examples:
        >>> import itertools
        >>> from nbray.util.multiprocessing import Pool
        >>> with Pool(1) as pool:
        ...     squares = pool.imap(lambda x: x * x, itertools.count())
        ...     print(next(squares), next(squares), squares.next(timeout=30))
        0 1 4
    """

    def __init__(
        self,
        runner: Runner,
        function: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int,
        processes: int,
        ordered: bool,
    ) -> None:
        self._runner = runner
        self._function = function
        self._source: Iterator[Any] | None = iter(iterable)
        self._chunksize = chunksize
        self._ordered = ordered
        self._running: dict[ObjectRef, Chunk] = {}
        self._submitted: deque[ObjectRef] = deque()
        self._ended: dict[ObjectRef, list[Outcome]] = {}
        self._ready: deque[Outcome] = deque()
        self._last: Exception | None = None
        self._lock = threading.RLock()
        for process in range(processes):
            self._feed(process)

    def _feed(self, process: int) -> None:
        """Give that process the next chunk."""
        if self._source is None:
            return
        source, self._source = self._source, None  # what raises has ended
        calls: Calls = []
        try:
            for item in itertools.islice(source, self._chunksize):
                calls.append(((item,), {}))
        except Exception as error:  # the iterable's: it comes after the results before it
            self._last = error
        else:
            if len(calls) == self._chunksize:
                self._source = source
        if not calls:
            return
        chunk = self._runner.run(self._function, calls, process)
        if chunk is None:
            self._source = None
            return
        self._running[chunk.ref] = chunk
        self._submitted.append(chunk.ref)

    def _take_one(self, deadline: float | None) -> None:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        ready, _rest = wait(list(self._running), num_returns=1, timeout=left)
        if not ready:
            raise TimeoutError("The next result was not there in time.")
        chunk = self._running[ready[0]]
        self._ended[chunk.ref] = outcomes_of(self._runner, chunk)
        del self._running[chunk.ref]
        if not self._ordered:  # the first that ends is the first in order
            self._submitted.remove(chunk.ref)
            self._submitted.appendleft(chunk.ref)
            self._give_out()
        self._feed(chunk.process)

    def _give_out(self) -> None:
        while self._submitted and self._submitted[0] in self._ended:
            self._ready.extend(self._ended.pop(self._submitted.popleft()))

    def take_all(self) -> None:
        """Have all calls made, however many, and keep their results for who iterates."""
        with self._lock:
            while self._running:
                self._take_one(None)

    def __iter__(self) -> IMapIterator:
        return self

    def next(self, timeout: float | None = None) -> Any:
        """The next result; a `PoolTaskError` for a call that raised.

        Args:
            timeout: seconds; None: any time.

        Returns:
            The result.

        Raises:
            StopIteration: there is none.
            multiprocessing.TimeoutError: it was not there in ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while True:
                self._give_out()
                if self._ready:
                    return yielded(self._ready.popleft())
                if not self._running:
                    error, self._last = self._last, None
                    raise StopIteration if error is None else error
                self._take_one(deadline)

    __next__ = next
