"""What a notebook needs of an engine, beside the names that Ray has, too.

`%%remote`, `%nbray` and the way of output stand on this port alone. Two of its parts are Ray's
public names: `Names` (``remote``, ``get``, ``wait``, actors) and `State` (``util.state``),
since another engine has them under another module. All that is nbray's own lies
behind the other parts: nothing here names a connection, a table or a thread of nbray's. Where Ray's
public API has no such thing, a docstring says how the engine on Ray does it.

Errors are those of `nbray.exceptions`, whichever engine runs: an engine translates its own.

An engine is one object. `engine` finds that of this process: of a kernel and of a worker alike,
since a cell's memory and its output are also its worker's matter. It is nbray's unless `use` has
chosen another one: the notebook does, and in its workers that engine itself.

A worker of another engine imports this module with next to nothing else of nbray, hence what it
imports late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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


ActorHandle = Any
"""What calls an actor: it has the methods of its class."""
RemoteFunction = Any
"""What ``remote`` makes of a function."""


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


class Names(Protocol):
    """Ray's public names, as Ray documents them. nbray's are the module `nbray` itself.

    Refs and handles are typed as nbray's, which have all that Ray's have.
    """

    ObjectRef: Any
    ObjectRefGenerator: Any
    ActorHandle: Any
    ActorClass: Any
    RemoteFunction: Any

    def get(self, object_refs: Any, /, *, timeout: float | None = None) -> Any:
        """The value of a ref, or of each of a list; GetTimeoutError after ``timeout`` seconds."""

    def put(self, value: Any, /) -> ObjectRef[Any]:
        """Store a value."""

    def wait(
        self, object_refs: Any, /, *, num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        """The refs that are ready, and the others."""

    def cancel(self, ref: Any, /, *, force: bool = False) -> Any:
        """Cancel the task of a ref."""

    def kill(self, actor: Any, /) -> Any:
        """End an actor."""

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """A remote function or an actor class; with options only: what makes one."""

    def get_actor(self, name: str, /, namespace: str | None = None) -> Any:
        """The actor of that name; ValueError without one."""

    def nodes(self) -> list[dict[str, Any]]:
        """Of the cluster."""

    def init(self, address: str | None = None, **options: Any) -> Any:
        """Join a cluster, or start one; takes keywords as nbray's does."""

    def is_initialized(self) -> bool:
        """Whether this process is in a cluster."""

    def shutdown(self) -> Any:
        """Leave it; one that was started here ends."""

    def get_runtime_context(self) -> Any:
        """Where the calling code runs."""

    def timeline(self) -> Any:
        """What tasks did when, as Chrome's trace viewer reads it."""


class Space(Protocol):
    """Bytes by key in the GCS, where they outlive every process and, if it is durable, the GCS's.

    On Ray: ``experimental.internal_kv``.
    """

    def put(self, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        """Store a value, if ``overwrite`` or if there is none; whether there was one."""

    def get(self, key: bytes) -> bytes | None:
        """A key's value."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, in their order."""

    def delete(self, key: bytes, *, prefix: bool = False) -> None:
        """Delete a key, or with ``prefix`` all that begin with it."""

    def keys(self, prefix: bytes) -> list[bytes]:
        """All that begin so."""


class State(Protocol):
    """The names of ``util.state`` that the notebook uses; rows are nbray's."""

    def list_actors(self, *args: Any, **kwargs: Any) -> list[ActorState]:
        """As Ray documents it."""

    def list_jobs(self, *args: Any, **kwargs: Any) -> list[JobState]:
        """As Ray documents it."""

    def list_nodes(self, *args: Any, **kwargs: Any) -> list[NodeState]:
        """As Ray documents it."""

    def list_tasks(self, *args: Any, **kwargs: Any) -> list[TaskState]:
        """As Ray documents it."""

    def list_workers(self, *args: Any, **kwargs: Any) -> list[WorkerState]:
        """As Ray documents it."""

    def get_actor(self, *args: Any, **kwargs: Any) -> ActorState | None:
        """One actor's row, by its id."""

    def get_placement_group(self, *args: Any, **kwargs: Any) -> PlacementGroupState | None:
        """One group's row, by its id."""

    def get_log(self, *args: Any, **kwargs: Any) -> Iterable[Any]:
        """The text of a log, in parts."""


class Engine(Protocol):
    """One engine, in its parts."""

    name: str
    """``nbray`` or ``ray``."""
    api: Names
    output: Output
    tasks: Tasks
    code: Code
    cluster: Cluster
    asides: Asides

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

    def memory(self) -> Memory:
        """Memory for one piece of work."""

    def on_node(self, node_id: str) -> Any:
        """The ``scheduling_strategy`` that means this node and no other."""

    def near_head(self) -> Any:
        """The ``scheduling_strategy`` that means the head, if there is room."""


_MODULES = {"nbray": "nbray.notebook_engine", "ray": "nbray.ray_engine"}
"""The modules whose ``ENGINE`` runs cells; found by name, since they import this one."""
_current: Engine | None = None


def engine() -> Engine:
    """The engine of this process."""
    return _current or use("nbray")


def use(name: str) -> Engine:
    """From now on the engine of this process is that of this name.

    Raises:
        ValueError: there is none of that name. ImportError: what it needs is not installed.
    """
    global _current
    if name not in _MODULES:
        raise ValueError(f"There is no engine {name!r}: {' or '.join(_MODULES)}.")
    chosen: Engine = import_module(_MODULES[name]).ENGINE
    _current = chosen
    return chosen
