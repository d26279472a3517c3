"""A pool of threads on a machine that may have no more of them at the moment."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class ThreadPool(ThreadPoolExecutor):
    """As in the standard library, but what it refuses is not done later.

    That pool says that it can start no thread, and keeps the work all the same for the next one
    that it has: by then whoever asked has given up, and what was to be written to is another's.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have it done in a thread.

        Raises:
            RuntimeError: there is none, or the pool is shut down; it is not done.
        """
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        def ended(within: Future[None]) -> None:
            if within.cancelled():  # by the end of the pool
                future.cancel()

        try:
            super().submit(run).add_done_callback(ended)
        except RuntimeError:
            if future.cancel():
                raise
            # a thread that was there before has begun with it
        return future
