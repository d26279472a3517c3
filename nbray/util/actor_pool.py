"""A pool of actors for work of one kind; Ray's `ActorPool`.

Each value has one outcome, whatever happens: a result, what its call raised, or, when all actors
are dead, their end. An outcome is taken when it is handed over and not before, so a wait that is
interrupted or runs out of time loses nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from nbray.calls.api import get, wait
from nbray.calls.handles import ActorHandle
from nbray.exceptions import ActorDiedError
from nbray.object_ref import ObjectRef

Call = Callable[[Any, Any], Any]

_NO_ACTOR = (
    "No living actor is left in the pool for this value, which was not worked on. "
    "ActorPool.push() adds an actor."
)


@dataclass
class _Work:
    """One call, until its outcome is taken."""

    actor: ActorHandle | None = None
    refs: tuple[ObjectRef, ...] = ()
    several: bool = False
    error: Exception | None = None

    def get(self) -> Any:
        """Its outcome; raises what the call raised."""
        if self.error is not None:
            raise self.error
        values = get(list(self.refs))
        return values if self.several else values[0]


class ActorPool:
    """Gives each idle actor the next piece of work.

    An actor that has died gets none any more. One whose call raised gets its next when another
    that is at work has ended its own, so that a broken one does not get all.

    Args:
        actors: handles of the actors, which are all able to do the work.

    Examples:
        >>> from nbray.util import ActorPool
        >>> @nbray.remote
        ... class Doubler:
        ...     def double(self, x):
        ...         return 2 * x
        >>> pool = ActorPool([Doubler.remote(), Doubler.remote()])
        >>> list(pool.map(lambda actor, x: actor.double.remote(x), [1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: deque[ActorHandle] = deque(actors)
        self._resting: list[ActorHandle] = []
        self._running: dict[int, _Work] = {}
        self._waiting: deque[tuple[Call, Any]] = deque()
        self._source: tuple[Call, Iterator[Any]] | None = None
        self._submitted = 0
        self._returned = 0

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """``fn(actor, value)`` makes a ref for each value; yields the results in their order.

        Results that nobody took of what was submitted before are left out. The values of a list,
        tuple, set or dict are taken at once; others, as a generator's, when an actor is free for
        them, so that they may be endless.

        Args:
            fn: gives of an actor and a value the ref of a call.
            values: what to work on.

        Returns:
            An iterator over the results.
        """
        return self._results(self._start(fn, values), self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`, in the order in which they are ready.

        Args:
            fn: as for `map`.
            values: as for `map`.

        Returns:
            An iterator over the results.
        """
        return self._results(self._start(fn, values), self.get_next_unordered)

    def _start(self, fn: Call, values: Iterable[Any]) -> tuple[Call, Iterator[Any]]:
        self._source = None
        while self._running:  # as Ray does: their actors go on, and nobody hears of the results
            self._take(next(iter(self._running)), failed=False)
        source = (fn, iter(values))
        if isinstance(values, (list, tuple, set, frozenset, dict)):
            self._waiting.extend((fn, value) for value in values)
        else:
            self._source = source
        self._feed()
        return source

    def _results(
        self, source: tuple[Call, Iterator[Any]], take: Callable[[], Any]
    ) -> Iterator[Any]:
        try:
            while self.has_next():
                yield take()
        finally:
            if self._source is source:  # whoever iterates has stopped before the end
                self._source = None

    def submit(self, fn: Call, value: Any) -> None:
        """Start ``fn(actor, value)`` on an idle actor, or once there is one.

        Args:
            fn: gives of an actor and a value the ref of a call.
            value: what to work on.

        Raises:
            TypeError: ``fn`` did not return a ref, or a list of refs.
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.popleft()
        try:
            work = _called(fn, actor, value)
        except BaseException:
            self._idle.appendleft(actor)
            raise
        self._add(work)

    def has_next(self) -> bool:
        """Whether a result has not been taken yet."""
        return bool(self._running or self._waiting or self._source)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of `submit`.

        Args:
            timeout: seconds to wait for it; None: any time.
            ignore_if_timedout: leave a result out that was not there in time; the next call
                asks for the one behind it.

        Returns:
            The result.

        Raises:
            StopIteration: there is none.
            TimeoutError: it was not there in ``timeout`` seconds.
            ValueError: results were taken out of order before.
            ActorDiedError: its actor has died, or all have.
        """
        self._check_next()
        number = self._returned
        work = self._running.get(number)
        if work is None:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        count = len(work.refs)
        if count and len(wait(list(work.refs), num_returns=count, timeout=timeout)[0]) < count:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            self._take(number, failed=False)
            raise TimeoutError(
                f"Timed out waiting for result. The task {work.refs[0]} has been ignored."
            )
        return self._hand_over(number)

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Any result that is ready; raises like `get_next`.

        When none is ready in time, all can still be asked for: no single one was waited for that
        could be left out, so ``ignore_if_timedout`` changes nothing.

        Args:
            timeout: seconds to wait for one; None: any time.
            ignore_if_timedout: has no effect.

        Returns:
            The result.
        """
        del ignore_if_timedout
        self._check_next()
        return self._hand_over(self._first_ready(timeout))

    def _check_next(self) -> None:
        if not self.has_next():
            raise StopIteration("No more results to get")
        if not self._running:
            if self._waiting:
                self._waiting.popleft()
            else:
                self._source = None
            self._add(_Work(error=ActorDiedError(error_msg=_NO_ACTOR)))

    def _first_ready(self, timeout: float | None) -> int:
        """The number of a call that has ended."""
        missing: dict[ObjectRef, int] = {}
        for number, work in self._running.items():
            if not work.refs:
                return number
            missing.update(dict.fromkeys(work.refs, number))
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _rest = wait(list(missing), num_returns=1, timeout=left)
            if not ready:
                raise TimeoutError("Timed out waiting for result")
            number = missing.pop(ready[0])
            if not self._running[number].several or number not in missing.values():
                return number

    def _hand_over(self, number: int) -> Any:
        work = self._running[number]
        try:
            result = work.get()
        except Exception as error:
            dead = error.actor_id if isinstance(error, ActorDiedError) else None
            if work.actor is not None and work.actor._id.hex() == dead:  # its own, no argument's
                work.actor = None
            self._take(number, failed=True)
            raise
        self._take(number, failed=False)
        return result

    def _take(self, number: int, failed: bool) -> None:
        actor = self._running.pop(number).actor
        self._returned = max(self._returned, number + 1)
        if actor is not None:
            self._idle.extend(self._resting)
            self._resting.clear()
            if failed and self._running and (self._waiting or self._source):
                self._resting.append(actor)
            else:
                self._idle.append(actor)
        self._feed()

    def _feed(self) -> None:
        """Give what waits to the idle actors."""
        if not self._running:
            self._idle.extend(self._resting)
            self._resting.clear()
        while self._idle:
            try:
                found = self._next_value()
                if found is None:
                    return
                work = _called(found[0], self._idle[0], found[1])
            except Exception as error:  # the user's: it is that value's outcome
                self._add(_Work(error=error))
                return
            self._idle.popleft()
            self._add(work)

    def _next_value(self) -> tuple[Call, Any] | None:
        if self._waiting:
            return self._waiting.popleft()
        if self._source is None:
            return None
        fn, values = source = self._source
        self._source = None  # for good when it has ended, or raises
        for value in values:
            self._source = source
            return fn, value
        return None

    def _add(self, work: _Work) -> None:
        self._running[self._submitted] = work
        self._submitted += 1

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits for it."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool; None when all are busy."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Put an actor into the pool.

        Args:
            actor: its handle.

        Raises:
            ValueError: it is there already.
        """
        busy = [work.actor for work in self._running.values()]
        if actor in self._idle or actor in self._resting or actor in busy:
            raise ValueError("Actor already belongs to current ActorPool")
        self._idle.append(actor)
        self._feed()


def _called(fn: Call, actor: ActorHandle, value: Any) -> _Work:
    """The call of ``fn`` for ``actor``.

    Raises:
        TypeError: it did not return a ref, or a list of refs.
    """
    made = fn(actor, value)
    refs = tuple(made) if isinstance(made, (list, tuple)) else (made,)
    if not refs or not all(isinstance(ref, ObjectRef) for ref in refs):
        raise TypeError(
            f"The function of an ActorPool returns a ref, or a list of refs, as actor.method."
            f"remote(value) does; it returned {type(made).__name__}."
        )
    return _Work(actor, refs, several=isinstance(made, (list, tuple)))
