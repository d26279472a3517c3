"""nbray as the engine behind a notebook: each part of `nbray.notebook` by what nbray has for it.

Each worker that runs a cell imports this. What only a kernel asks is imported when it does:
the cluster itself (`notebook_cluster`) is four megabytes of each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

import nbray
from nbray.calls.function_pickles import new_epoch, set_wrapper
from nbray.common.detached_cells import NOTEBOOKS
from nbray.common.ids import TaskID
from nbray.core_worker.current import joined_core
from nbray.driver import asides, interjecting, output, task_counts
from nbray.driver.own_memory import OwnMemory
from nbray.driver.rerunning import keep_task
from nbray.exceptions import NbrayError
from nbray.notebook import (
    Asides,
    Cluster,
    Code,
    Engine,
    Listener,
    Names,
    Output,
    Space,
    State,
    Tasks,
    TaskSays,
)
from nbray.object_ref import ObjectRef
from nbray.scheduling.strategies import NodeAffinitySchedulingStrategy
from nbray.state import local_state
from nbray.util.placement_group import PlacementGroup
from nbray.wire import gcs_messages as g

if TYPE_CHECKING:
    from nbray.state.profiling import ProcessProfile

_HEAD = "node:__internal_head__"


class _Output:
    begin_cell = staticmethod(output.set_origin)

    def settle(self) -> None:
        """A task's output comes before its result."""

    print_plainly = staticmethod(output.print_plainly)
    in_worker = staticmethod(output.in_worker)
    display = staticmethod(output.display)

    def listen(self, listener: Listener | None) -> None:
        output.set_output_handler(listener)
        output.set_warning_handler(listener.warn if listener is not None else None)
        output.set_origin_finder(listener.number_here if listener is not None else lambda: 0)


class _Tasks:
    counts = staticmethod(task_counts.request_counts)
    interrupt = staticmethod(local_state.cancel_tasks)
    when_ended = staticmethod(local_state.when_ended)
    describe = staticmethod(local_state.describe)

    def profile(self, cell: int, seconds: float, memory: bool) -> list[ProcessProfile]:
        from nbray.state.profiling import profile_origin  # only the kernel asks

        return profile_origin(cell, seconds, memory)

    def submitted(self, made: Any, name: str) -> None:
        """The core worker knows."""

    def future(self, ref: ObjectRef) -> Future[Any]:
        return ref.future()

    def unfinished(self, cell: int | None = None) -> list[TaskID]:
        return local_state.unfinished_tasks() if cell is None else local_state.unfinished_of(cell)


class _Code:
    new_cell = staticmethod(new_epoch)
    wrap = staticmethod(set_wrapper)


class _Asides:
    answer = staticmethod(asides.answer)
    is_there = staticmethod(asides.is_there)
    interject = staticmethod(interjecting.interject)
    keep_task = staticmethod(keep_task)

    def listen(self, listener: Callable[[TaskSays], None] | None) -> None:
        asides.set_aside_handler(listener)
        if listener is None:
            interjecting.end()
        else:
            interjecting.prepare()


class _Space:
    """See `nbray.notebook.Space`. It never starts a cluster: threads ask that outlive one."""

    def put(self, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        return not _ask_gcs("KvPut", g.KvPut(NOTEBOOKS, key, value, overwrite), g.KvCount).count

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = _ask_gcs("KvGet", g.KvKey(NOTEBOOKS, key), g.KvValue).value
        return found

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        found: list[bytes | None] = _ask_gcs(
            "KvGetMany", g.KvMany(NOTEBOOKS, [*keys]), g.KvValues
        ).values
        return found

    def delete(self, key: bytes, *, prefix: bool = False) -> None:
        _ask_gcs("KvDel", g.KvDel(NOTEBOOKS, key, prefix), g.KvCount)

    def keys(self, prefix: bytes) -> list[bytes]:
        found: list[bytes] = _ask_gcs("KvKeys", g.KvKey(NOTEBOOKS, prefix), g.KvKeys).keys
        return found


def _ask_gcs(method: str, request: Any, reply_type: type[Any]) -> Any:
    if not nbray.is_initialized():
        raise NbrayError("This process is in no cluster.")
    reply = joined_core().peers.gcs_call(method, msgspec.msgpack.encode(request))
    return msgspec.msgpack.decode(reply, type=reply_type)


class _Nbray:
    name = "nbray"
    api: Names = nbray
    memory = OwnMemory
    placement_group: type = PlacementGroup

    errors: tuple[type[BaseException], ...] = (NbrayError,)

    def error(self, error: BaseException) -> BaseException:
        """See `nbray.notebook.Engine`."""
        return error

    def actor_words(self, handle: Any) -> tuple[str, str, list[str]]:
        """See `nbray.notebook.Engine`."""
        methods = [name for name in handle._methods if not name.startswith("_")]
        return handle._class_name, handle._id.hex(), methods

    def refusal(self, what: str) -> str:
        """See `nbray.notebook.Engine`: all of it was made for this one."""
        return ""

    def on_node(self, node_id: str) -> NodeAffinitySchedulingStrategy:
        """See `nbray.notebook.Engine`."""
        return NodeAffinitySchedulingStrategy(node_id, soft=False)

    def user_environment(self) -> Mapping[str, Any]:
        """See `nbray.notebook.Engine`."""
        return nbray.get_runtime_context().runtime_env

    def near_head(self) -> NodeAffinitySchedulingStrategy | None:
        """See `nbray.notebook.Engine`."""
        heads = [node["NodeID"] for node in nbray.nodes() if _HEAD in node["Resources"]]
        return NodeAffinitySchedulingStrategy(heads[0], soft=True) if heads else None

    @cached_property
    def space(self) -> Space:
        """See `nbray.notebook.Engine`."""
        return _Space()

    @cached_property
    def cluster(self) -> Cluster:
        """See `nbray.notebook.Engine`; no worker asks, and so none has what is behind it."""
        from nbray.notebook_cluster import CLUSTER

        return CLUSTER

    @cached_property
    def state(self) -> State:
        """See `nbray.notebook.Engine`."""
        from nbray.util import state

        return state

    @cached_property
    def handles(self) -> tuple[type, ...]:
        """See `nbray.notebook.Engine`; a kernel that runs no cell does without these modules."""
        return nbray.ObjectRef, nbray.ActorHandle, nbray.ActorClass, nbray.RemoteFunction

    output: Output = _Output()
    tasks: Tasks = _Tasks()
    code: Code = _Code()
    asides: Asides = _Asides()


ENGINE: Engine = _Nbray()
