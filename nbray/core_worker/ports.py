"""What the parts of a process may ask of what stands around them.

A part names what it uses and never the whole process, so that a test stands around it as well as
`core` does. Peers are named by their ids and addresses: who has a connection is `peers` and `edge`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from nbray.core_worker.task_options import TaskOptions
from nbray.wire.messages import Message
from nbray.wire.records import Address, TaskSpec


class Waiting(Protocol):
    """A thread that waits for so many completions (`nbray.wire.waiting.Waiter`)."""

    remaining: int

    def complete_one(self) -> None:
        """One of them is there."""

    def failed(self) -> None:
        """One of them is there, and is an error."""


class Inbox(Protocol):
    """Work for the holder of the baton, from any thread (`nbray.wire.reactor.Reactor`)."""

    inbox: deque[Callable[[], None]]

    def post(self, action: Callable[[], None]) -> None:
        """Have ``action`` done soon."""

    def call_later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have it done after a while; only under the baton."""


class Raylet(Protocol):
    """The raylet of this node; under the baton."""

    def to_raylet(self, message: Message) -> bool:
        """Send it; False when the raylet has ended."""


class Sink(Protocol):
    """Where reports of this process go, from any thread."""

    def post(self, action: Callable[[], None]) -> None:
        """Have ``action`` done soon under the baton."""

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Have ``action`` done under the baton, after a while."""

    def to_raylet(self, message: Message) -> bool:
        """Send it; only under the baton."""


class RayletRequests(Protocol):
    """What any thread asks the raylet and the GCS, and waits for."""

    def request(self, key: object, message: Message, timeout: float = 30.0) -> Any:
        """Send ``message`` and wait for the reply for ``key``."""

    def gcs_call(self, method: str, body: bytes, timeout: float | None = None) -> bytes:
        """Call a method of the GCS through the raylet."""


class Mail(Protocol):
    """Messages to drivers and workers; under the baton."""

    def send(self, address: Address, message: Message) -> None:
        """Send it, over a new connection if there is none."""

    def answer(self, worker_id: bytes, message: Message) -> None:
        """Send it over the connection that there is; nothing if the process has gone."""

    def ask(self, address: Address, question: Any, then: Callable[[Any], None]) -> None:
        """Number and send a question; ``then`` gets the reply, or None if the process ends."""


class RunsAgain(Protocol):
    """Whoever submits, as lineage sees it; under the baton."""

    def streams_still(self, task_id: bytes) -> bool:
        """Whether a task yields items and has no reply yet."""

    def is_unfinished(self, task: PendingWork) -> bool:
        """Whether a task or call has no reply."""

    def run_again(self, task: PendingWork) -> None:
        """Run a finished task once more."""


class PendingWork(Protocol):
    """A task or a call that was submitted, as its owner sees it."""

    retries: int
    submitted: float

    @property
    def first(self) -> bytes:
        """Its first object."""

    @property
    def options(self) -> TaskOptions:
        """What the options of the call came to."""

    @property
    def spec(self) -> TaskSpec:
        """As its worker gets it."""

    def rest(self) -> None:
        """It has ended, and is kept: what can be made anew goes."""

    def again(self) -> None:
        """It is run once more, which counts."""

    def shown_state(self) -> str:
        """How far it is, by Ray's name."""
