"""What the options of a task or call come to for the runtime."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbray.wire.strategies import NOTHING, Shape

QueueKey = tuple[Shape, str, bytes]
"""What tasks have in common that share workers: shape, environment, the node of their arguments."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Resolved once per remote function, or actor method, and shared by its tasks.

    Attributes:
        shape: the resources that a normal task's lease has, and how its node is chosen.
        num_returns: how many values; negative for streams.
        retries: runs after the first one when a worker died; -1 for ever.
        retry_exceptions: also when the function raised: always, never, or for these classes.
        max_calls: a worker leaves after so many runs of the function; 0 for never.
        backpressure: how many items a stream may be ahead of its reader; 0 for any number.
        out_of_order: whether a call may overtake others of its caller that wait for arguments.
        runtime_env: the text form of the environment that the task runs in.
        concurrency_group: which threads or semaphore of an actor the call uses.
        key: the queue of its tasks that have no large arguments on another node.
    """

    shape: Shape = NOTHING
    num_returns: int = 1
    retries: int = 0
    retry_exceptions: bool | tuple[type[BaseException], ...] = False
    max_calls: int = 0
    backpressure: int = 0
    concurrency_group: str = ""
    out_of_order: bool = False
    runtime_env: str = ""
    key: QueueKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", (self.shape, self.runtime_env, b""))
