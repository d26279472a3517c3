"""What a notebook needs of an engine, beside the names that Ray has, too.

`%%remote`, `%nbray` and the way of output stand on two things: Ray's public names (``remote``,
``get``, ``wait``, ``cancel``, actors, ``util.state``), which the extension uses under nbray's name;
and this port. All that is nbray's own lies behind it, so that another engine can stand there:
nothing here names a connection, a table or a thread of nbray's. Where Ray's public API has no such
thing, a docstring says how an engine on Ray does it.

An engine is one object of six parts. `engine` finds that of this process: of a kernel and of a
worker alike, since a cell's memory and its output are also its worker's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from nbray.common.ids import TaskID
from nbray.driver.membership import ClusterNow, Membership
from nbray.driver.task_counts import FunctionCounts
from nbray.object_ref import ObjectRef
from nbray.state.local_state import RefFacts
from nbray.state.profiling import ProcessProfile
from nbray.state.rows import DemandState, WorkerState
from nbray.state.scaling import ScalingState
from nbray.wire.records import OutputSource
from nbray.wire.watching_messages import OutputDisplay, OutputLines, TaskSays

__all__ = [
    "Asides", "Cluster", "ClusterNow", "Code", "DemandState", "Engine", "FunctionCounts",
    "Listener", "Membership", "Memory", "Nodes", "Output", "OutputDisplay", "OutputLines",
    "OutputSource", "ProcessProfile", "RefFacts", "TaskSays", "Tasks", "WorkerState", "engine",
]  # fmt: skip


class Listener(Protocol):
    """The notebook, as the engine sees it."""

    def __call__(self, message: OutputLines | OutputDisplay) -> None:
        """A task has printed or displayed something.

        Called on whichever thread drives the sockets: returns at once, and calls no engine.
        """

    def warn(self, text: str) -> None:
        """The cluster warns of something, to which nobody has to react."""

    def number_here(self) -> int:
        """The cell for which the calling thread submits, when no `Output.begin_cell` says so."""


class Output(Protocol):
    """What tasks print and display, and to which cell it belongs.

    A cell's number travels with its tasks, with what these submit, and with their output. On Ray:
    an argument that the engine's wrapper of a remote function adds, and an actor to which workers
    send.
    """

    def listen(self, listener: Listener | None) -> None:
        """Give all output to ``listener``; None: print it, as a plain program does."""

    def begin_cell(self, number: int) -> None:
        """What this thread or coroutine submits from now on belongs to cell ``number``."""

    def print_plainly(self, message: OutputLines | OutputDisplay, marked: bool = True) -> None:
        """Print a message line by line; ``marked``: with function and process before each line."""

    def in_worker(self) -> bool:
        """Whether this process is a worker, whose output goes to a notebook."""

    def display(self, kind: str, content: dict[str, Any]) -> None:
        """Send something rich from a worker to its notebook.

        Args:
            kind: ``display_data``, ``update_display_data`` or ``clear_output``.
            content: that message's content as Jupyter defines it; JSON, pictures as base64.
        """


class Tasks(Protocol):
    """The tasks and refs of this process, as far as it knows them without asking anybody.

    On Ray: a table that the engine's wrapper of a remote function keeps, and ``ray.wait``.
    """

    def counts(self, then: Callable[[list[FunctionCounts]], None]) -> bool:
        """Call ``then`` soon with the counts by cell and function; False without a cluster.

        ``then`` runs on the thread that drives the sockets: it must return at once.
        """

    def unfinished(self, cell: int | None = None) -> list[TaskID]:
        """Those whose results are not there yet; with ``cell``, those of that cell.

        Raises:
            GetTimeoutError: whoever drives the sockets has not come to it within some seconds.
        """

    def interrupt(self, tasks: Iterable[TaskID], *, force: bool = False) -> None:
        """Stop tasks as an interrupt stops a program, and their children; ``force``: kill them."""

    def when_ended(self, refs: Sequence[ObjectRef], then: Callable[[], None]) -> None:
        """Call ``then`` once, when all these values, or their errors, are there."""

    def profile(self, cell: int, seconds: float, memory: bool) -> list[ProcessProfile]:
        """Look for so long at the processes that run tasks of ``cell``, nested ones as well."""

    def describe(self, ref: ObjectRef) -> RefFacts:
        """State, size and place of a ref's value; fetches nothing."""


class Code(Protocol):
    """How functions and classes are pickled. On Ray: the engine pickles them, and sends bytes."""

    def new_cell(self) -> None:
        """All may have changed: pickle functions and classes again before their next use."""

    def wrap(self, wrapper: Callable[[Any], Any] | None) -> None:
        """Pickle ``wrapper(target)`` for each function and class; None ends that.

        What it returns must unpickle as the target.
        """


class Memory(Protocol):
    """Memory that was read in place, to be written by one piece of work. On Ray: copies."""

    @property
    def size(self) -> int:
        """Bytes that it made writable."""

    def writable(self, memory: Any) -> memoryview:
        """The bytes of ``memory``, writable: the same memory if it is."""

    def mark(self, buffer: memoryview) -> tuple[object, ...]:
        """What tells later whether the memory has other bytes."""


class Asides(Protocol):
    """What tasks tell their notebook beside their output, as `nbray.debugging` has it.

    That they failed, and how it looked there; that they stopped, and wait for a command; where
    their time went. On Ray: the engine's wrapper of a remote function sends it to the actor of the
    output, and asks that for answers.
    """

    def listen(self, listener: Callable[[TaskSays], None] | None) -> None:
        """Give them to ``listener``, on the thread that drives the sockets; None: drop them.

        Only in the main thread.
        """

    def answer(self, worker_id: bytes, number: int, content: bytes) -> None:
        """Answer a worker that asked."""

    def is_there(self, worker_id: bytes) -> bool:
        """Whether a worker can still be answered."""

    def interject(self, call: Callable[[], None]) -> None:
        """Have ``call`` called in the main thread, in the middle of what it does or waits for."""


class Nodes(Protocol):
    """More nodes on this machine; they leave with this process. On Ray: ``ray start``."""

    def added(self) -> list[str]:
        """The ids of those that were added here, oldest first."""

    def add(self, *, num_cpus: float | None = None, object_store_memory: int | None = None) -> str:
        """Start a node; returns its id.

        Raises:
            RuntimeError: there is no cluster. OSError: it did not start.
        """

    def remove(self, node_id: str | None = None) -> str:
        """End a node that was added here, the newest by default; returns its id.

        Raises:
            ValueError: there is none, or not that one.
        """


class Cluster(Protocol):
    """The cluster of this process, and its place in it."""

    nodes: Nodes
    context_type: type
    """The class of what ``init`` returns; it is shown with a link to the dashboard."""

    def membership(self) -> Membership | None:
        """This process's part in the cluster; None when it is in none."""

    def now(self, timeout: float) -> ClusterNow:
        """Nodes and resources at this moment.

        Raises:
            GetTimeoutError: no answer in ``timeout`` seconds. LocalRayletDiedError: it is lost.
        """

    def demand(self, timeout: int) -> list[DemandState]:
        """What waits for resources, and why."""

    def scaling(self) -> ScalingState | None:
        """What the autoscaler does; None: there is none."""

    def set_bounds(self, least: int, most: int, node_type: str = "") -> None:
        """Have the autoscaler keep so many nodes, of a type at least and of all types at most.

        Raises:
            ValueError: there is none, or these are no bounds.
        """

    def logs(self) -> Path:
        """The folder of the logs of this machine's node."""

    def worker(self, word: str) -> WorkerState | None:
        """The worker with this pid or id, or whose actor has this name or id."""

    def context(self) -> Any:
        """What ``init`` returned: ``dashboard_url``, ``login_link()``, ``probe_dashboard()``."""

    def join(
        self, address: str, token: bytes | None = None, namespace: str | None = None,
        resources: Mapping[str, float] | None = None, **node_options: Any,
    ) -> None:  # fmt: skip
        """Join the cluster at ``address``, by a node that ends with this process.

        Args:
            address: HOST:PORT.
            token: the cluster's; the user's by default.
            namespace: of this process.
            resources: of the node; None: one without CPUs, if none of the cluster is here.
            node_options: labels, object_store_memory, object_spilling_directory.

        Raises:
            OSError: there is no way to it. ValueError: it does not take this process in.
        """

    def start_detached(self, words: Sequence[str]) -> str:
        """Start a cluster that outlives this process; returns its address.

        Args:
            words: the options of the command ``nbray start``.

        Raises:
            RuntimeError: it did not start; the text is what the command said.
        """


class Engine(Protocol):
    """One engine, in its parts."""

    output: Output
    tasks: Tasks
    code: Code
    cluster: Cluster
    asides: Asides

    def memory(self) -> Memory:
        """Memory for one piece of work."""


_ENGINE = "nbray.notebook_engine"
"""The module whose ``ENGINE`` runs cells; found by its name, since it imports this one."""


def engine() -> Engine:
    """The engine of this process."""
    found: Engine = import_module(_ENGINE).ENGINE
    return found
