"""What a notebook needs of an engine, beside the names that Ray has, too.

`%%remote`, `%nbray` and the way of output stand on this port alone. Two of its parts are Ray's
public names: `Names` (``remote``, ``get``, ``wait``, actors) and `State` (``util.state``),
since another engine has them under another module; these stand in `names`. All that is nbray's own
lies behind the other parts: nothing here names a connection, a table or a thread of nbray's. Where
Ray's public API has no such thing, a docstring says how the engine on Ray does it.

Errors are those of `nbray.exceptions`, whichever engine runs: an engine translates its own.

An engine is one object. `engine` finds that of this process: of a kernel and of a worker alike,
since a cell's memory and its output are also its worker's matter. It is nbray's unless `use` has
chosen another one: the notebook does, and in its workers that engine itself.

A worker of another engine imports this module with next to nothing else of nbray, hence what it
imports late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nbray.notebook.names import ActorHandle, Names, RemoteFunction, Space, State

if TYPE_CHECKING:
    from nbray.common.ids import TaskID
    from nbray.core_worker.values.generators import ObjectRefGenerator
    from nbray.driver.membership import ClusterNow, Membership
    from nbray.driver.rerunning import KeptTask
    from nbray.driver.task_counts import FunctionCounts
    from nbray.object_ref import ObjectRef
    from nbray.state.local_state import RefFacts
    from nbray.state.profiling import ProcessProfile
    from nbray.state.rows import (
        ActorState,
        DemandState,
        JobState,
        NodeState,
        PlacementGroupState,
        TaskState,
        WorkerState,
    )
    from nbray.state.scaling import ScalingState
    from nbray.wire.records import OutputSource
    from nbray.wire.watching_messages import OutputDisplay, OutputLines, TaskSays
else:
    _LATE = {
        "nbray.driver.membership": ("ClusterNow", "Membership"),
        "nbray.driver.rerunning": ("KeptTask",),
        "nbray.driver.task_counts": ("FunctionCounts",),
        "nbray.object_ref": ("ObjectRef",),
        "nbray.core_worker.values.generators": ("ObjectRefGenerator",),
        "nbray.state.local_state": ("RefFacts",),
        "nbray.state.rows": (
            "ActorState", "DemandState", "JobState", "NodeState", "PlacementGroupState",
            "TaskState", "WorkerState",
        ),
        "nbray.wire.records": ("OutputSource",),
        "nbray.wire.watching_messages": ("OutputDisplay", "OutputLines", "TaskSays"),
        "nbray.state.profiling": ("ProcessProfile",),
    }  # fmt: skip

    def __getattr__(name):
        for module, names in _LATE.items():
            if name in names:
                return getattr(import_module(module), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ActorHandle", "ActorState", "Asides", "Cluster", "ClusterNow", "Code", "DemandState", "Engine",
    "FunctionCounts", "JobState", "KeptTask", "Listener", "Membership", "Memory", "Names",
    "NodeState",
    "Nodes", "ObjectRef", "ObjectRefGenerator", "Output", "OutputDisplay", "OutputLines",
    "OutputSource", "PlacementGroupState", "ProcessProfile", "RefFacts", "RemoteFunction", "Space",
    "State", "TaskSays",
    "TaskState", "Tasks", "WorkerState", "engine", "use",
]  # fmt: skip


class Listener(Protocol):
    """The notebook, as the engine sees it."""

    def __call__(self, message: OutputLines | OutputDisplay) -> None:
        """A task has printed or displayed something.

        Called on whichever thread drives the sockets: returns at once, and calls no engine.
        """

    def warn(self, text: str, cell: int = 0) -> None:
        """The cluster warns of something, to which nobody has to react.

        ``cell`` submitted what it is about; 0: it is about no cell's work.
        """

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

    def settle(self) -> None:
        """Deliver what has been printed by tasks whose results are here; waits for seconds at most.

        On Ray: fetch what the actor has; nbray's output comes before the result.
        """

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

    def submitted(self, made: Any, name: str) -> None:
        """The notebook has called ``name``, perhaps unseen by the engine, and got ``made``."""

    def future(self, ref: ObjectRef) -> Future[Any]:
        """The future of a ref; its errors are nbray's."""

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

    def keep_task(self, data: bytes) -> KeptTask:
        """A task that failed, as its worker told of it; its arguments are held with it."""

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

    @property
    def nodes(self) -> Nodes:
        """More of them on this machine."""

    @property
    def context_type(self) -> type:
        """The class of what ``init`` returns; it is shown with a link to the dashboard."""

    @property
    def command(self) -> str:
        """What a shell calls it: ``nbray`` or ``ray``."""

    def name(self) -> str:
        """Of this process in its cluster, another one each time that it joins; "" outside."""

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

    def start(self, options: Mapping[str, Any], namespace: str | None = None) -> None:
        """Start a cluster that ends with this process, and join it.

        Args:
            options: of the command ``nbray start``, by their names.
            namespace: of this process.

        Raises:
            OSError, ValueError: it did not start, or the options cannot be.
        """

    def join(
        self, address: str, token: bytes | None = None, namespace: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Join the cluster at ``address``, by a node that ends with this process.

        Args:
            address: HOST:PORT.
            token: the cluster's; the user's by default.
            namespace: of this process.
            options: of the node, as `start` has them; None: it has no CPUs, and there is none if
                one of the cluster is here.

        Raises:
            OSError: there is no way to it. ValueError: it does not take this process in.
        """

    def for_programs(self) -> dict[str, str]:
        """In a worker: the variables by which a program that it starts joins its cluster."""

    def start_detached(self, words: Sequence[str]) -> str:
        """Start a cluster that outlives this process; returns its address.

        Args:
            words: the options of the command ``nbray start``.

        Raises:
            RuntimeError: it did not start; the text is what the command said.
        """


class Engine(Protocol):
    """One engine, in its parts."""

    name: str
    """``nbray`` or ``ray``."""
    api: Names
    output: Output
    tasks: Tasks
    code: Code
    asides: Asides

    @property
    def cluster(self) -> Cluster:
        """The cluster, which only a kernel asks about."""

    @property
    def space(self) -> Space:
        """What is kept in the GCS."""

    @property
    def state(self) -> State:
        """The names of ``util.state``."""

    @property
    def handles(self) -> tuple[type, ...]:
        """The types of refs, actors, and remote functions and classes."""

    @property
    def placement_group(self) -> type:
        """The type of placement groups."""

    @property
    def errors(self) -> tuple[type[BaseException], ...]:
        """The classes of its errors, which a user's own calls raise."""

    def error(self, error: BaseException, /) -> BaseException:
        """An error as nbray has it; the same if it is none of this engine's."""

    def actor_words(self, handle: ActorHandle) -> tuple[str, str, list[str]]:
        """What its handle says of an actor: its class, its id in hex, and its methods."""

    def refusal(self, what: str) -> str:
        """Why this engine has no such command or option, as a sentence; "" if it has."""

    def memory(self) -> Memory:
        """Memory for one piece of work."""

    def on_node(self, node_id: str) -> Any:
        """The ``scheduling_strategy`` that means this node and no other."""

    def near_head(self) -> Any:
        """The ``scheduling_strategy`` that means the head, if there is room."""

    def user_environment(self) -> Mapping[str, Any]:
        """The ``runtime_env`` that the user gave for this process's tasks; not the engine's own."""


_MODULES = {"nbray": "nbray.notebook_engine", "ray": "nbray.ray_engine.kernel"}
"""The modules whose ``ENGINE`` runs cells; found by name, since they import this one."""
_current: Engine | None = None


def engine() -> Engine:
    """The engine of this process."""
    return _current or use("nbray")


def use(which: str | Engine) -> Engine:
    """From now on this is the engine of this process, or that of this name.

    Raises:
        ValueError: there is none of that name. ImportError: what it needs is not installed.
    """
    global _current
    if isinstance(which, str):
        if which not in _MODULES:
            raise ValueError(f"There is no engine {which!r}: {' or '.join(_MODULES)}.")
        chosen: Engine = import_module(_MODULES[which]).ENGINE
    else:
        chosen = which
    _current = chosen
    return chosen
