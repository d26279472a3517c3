"""What the options of a task or call come to for the runtime."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[tuple[tuple[str, int], ...], str]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Resolved once per remote function, or actor method, and shared by its tasks.

    Attributes:
        resources: the shape that a normal task's lease has, in units.
        num_returns: how many values; negative for streams.
        retries: runs after the first one when a worker died; -1 for ever.
        retry_exceptions: also when the function raised: always, never, or for these classes.
        max_calls: a worker leaves after so many runs of the function; 0 for never.
        backpressure: how many items a stream may be ahead of its reader; 0 for any number.
        runtime_env: the text form of the environment that the task runs in.
        concurrency_group: which threads or semaphore of an actor the call uses.
    """

    resources: tuple[tuple[str, int], ...] = ()
    num_returns: int = 1
    retries: int = 0
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    max_calls: int = 0
    backpressure: int = 0
    concurrency_group: str = ""
    runtime_env: str = ""

    @property
    def shape(self) -> Shape:
        """What tasks must have in common to use the same workers."""
        return self.resources, self.runtime_env
