"""A pool of actors for work of one kind; Ray's `ActorPool`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nbray.actor import ActorHandle
from nbray.api import get, wait
from nbray.object_ref import ObjectRef

Call = Callable[[Any, Any], ObjectRef]


class ActorPool:
    """Gives each idle actor the next piece of work.

    Args:
        actors: handles of the actors, which are all able to do the work.
    """

    def __init__(self, actors: Iterable[ActorHandle]) -> None:
        self._idle: list[ActorHandle] = list(actors)
        self._running: dict[ObjectRef, tuple[int, ActorHandle]] = {}
        self._by_number: dict[int, ObjectRef] = {}
        self._waiting: list[tuple[Call, Any]] = []
        self._submitted = 0
        self._returned = 0

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """``fn(actor, value)`` makes a ref for each value; yields the results in their order."""
        self._submit_all(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Like `map`, in the order in which they are ready."""
        self._submit_all(fn, values)
        return self._results(self.get_next_unordered)

    def _submit_all(self, fn: Call, values: Iterable[Any]) -> None:
        while self.has_next():  # results that nobody took are of an earlier `map`
            self._take(wait(list(self._running))[0][0])
        for value in values:
            self.submit(fn, value)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def submit(self, fn: Call, value: Any) -> None:
        """Start ``fn(actor, value)`` on an idle actor, or once there is one."""
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.pop()
        ref = fn(actor, value)
        self._running[ref] = (self._submitted, actor)
        self._by_number[self._submitted] = ref
        self._submitted += 1

    def has_next(self) -> bool:
        """Whether a result has not been taken yet."""
        return bool(self._running)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of `submit`.

        Raises:
            StopIteration: there is none. TimeoutError: it was not there in ``timeout`` seconds.
            ValueError: results were taken out of order before.
        """
        if not self.has_next():
            raise StopIteration("No more results to get")
        ref = self._by_number.get(self._returned)
        if ref is None:
            raise ValueError("It is not allowed to call get_next() after get_next_unordered().")
        ready = timeout is None or wait([ref], timeout=timeout)[0]
        if not ready and not ignore_if_timedout:
            raise TimeoutError("Timed out waiting for result")
        self._take(ref)
        return get(ref) if ready else None

    def get_next_unordered(
        self, timeout: float | None = None, ignore_if_timedout: bool = False
    ) -> Any:
        """Any result that is ready; raises like `get_next`."""
        if not self.has_next():
            raise StopIteration("No more results to get")
        ready, _rest = wait(list(self._running), num_returns=1, timeout=timeout)
        if not ready:
            if not ignore_if_timedout:
                raise TimeoutError("Timed out waiting for result")
            return None
        self._take(ready[0])
        return get(ready[0])

    def _take(self, ref: ObjectRef) -> None:
        number, actor = self._running.pop(ref)
        del self._by_number[number]
        self._returned = max(self._returned, number + 1)
        self._return_actor(actor)

    def _return_actor(self, actor: ActorHandle) -> None:
        self._idle.append(actor)
        if self._waiting:
            self.submit(*self._waiting.pop(0))

    def has_free(self) -> bool:
        """Whether an actor is idle and nothing waits for it."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle | None:
        """Take an idle actor out of the pool; None when all are busy."""
        return self._idle.pop() if self.has_free() else None

    def push(self, actor: ActorHandle) -> None:
        """Put an actor into the pool.

        Raises:
            ValueError: it is there already.
        """
        busy = {handle._id for _number, handle in self._running.values()}
        if actor._id in busy | {handle._id for handle in self._idle}:
            raise ValueError("Actor already belongs to current ActorPool")
        self._return_actor(actor)
