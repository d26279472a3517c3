"""The process of an actor: where its calls run.

A plain actor runs its calls one by one in the main thread. With ``max_concurrency``, or concurrency
groups, each group has its own pool of threads; in an actor with coroutine methods, its own event
loop (`actor_loops`). Calls of different groups do not wait for each other.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from typing import Any, Protocol

from nbray import cloudpickle
from nbray.common.ids import creation_id
from nbray.core_worker.cancelling import Cancelling
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.errors import lost as lost_value
from nbray.core_worker.ports import Sink
from nbray.core_worker.run.actor_loops import CallLoop, loops
from nbray.core_worker.run.call_pool import CallPool
from nbray.core_worker.run.loop_selector import Drives
from nbray.core_worker.run.scope import TaskScope
from nbray.core_worker.run.task_runner import TaskRunner
from nbray.core_worker.run.tracebacks import user_traceback
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.core_worker.values.arguments import ArgumentsLost, unpack
from nbray.core_worker.values.reading import Values
from nbray.core_worker.values.stored import StoredValues
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.connection import Connection
from nbray.wire.records import ActorSpec, TaskSpec, Value

_ASYNC_DEFAULT = 1000
_PATIENCE_S = 0.5


class Host(Protocol):
    """Whoever takes calls and sends replies (`run.executor`)."""

    def reply(self, connection: Connection, spec: TaskSpec, done: m.TaskDone) -> None:
        """Queue the reply of a call that ran in another thread."""

    def leave(self, leaving: SystemExit) -> None:
        """User code ends this process."""

    def is_leaving(self) -> bool:
        """Whether it does."""


class ActorHost:
    """One actor in its process.

    Attributes:
        running: the calls that run in other threads than the main one.
    """

    def __init__(
        self, spec: ActorSpec, host: Host, me: Identity, sink: Sink, runner: TaskRunner,
        scope: TaskScope, values: Values, stored: StoredValues, events: TaskEventLog,
        cancelling: Cancelling, drives: Drives,
    ) -> None:  # fmt: skip
        self.actor_id = spec.actor_id
        self._spec = spec
        self._host = host
        self._me = me
        self._sink = sink
        self._runner = runner
        self._scope = scope
        self._values = values
        self._newer = stored.newer
        self._events = events
        self._cancelling = cancelling
        self._drives = drives
        self._pools: dict[str, CallPool] = {}
        self._loops: dict[str, CallLoop] = {}
        self.running: set[bytes] = set()

    def create(self) -> m.ActorCreated:
        """Run the constructor, and make ready for calls."""
        spec = self._spec
        creation = TaskSpec(
            creation_id(spec.actor_id), spec.job_id, b"", f"{spec.class_name}.__init__", spec.args,
            spec.dependencies, spec.contained, actor_id=spec.actor_id, origin=spec.origin,
        )  # fmt: skip
        options = spec.options
        if options.is_async:
            sizes = {"": options.max_concurrency or _ASYNC_DEFAULT, **options.concurrency_groups}
            self._loops = loops(sizes, self, self._drives)
        elif options.max_concurrency > 1 or options.concurrency_groups:
            sizes = {"": max(1, options.max_concurrency), **options.concurrency_groups}
            self._pools = {name: CallPool(name, size) for name, size in sizes.items()}
        done = m.TaskDone(creation.task_id, [], 0.0)
        began = time.monotonic()
        token = self._scope.enter(creation)
        try:
            actor_class = cloudpickle.loads(spec.class_pickle)
            unpacked = self._unpack(creation)
            if unpacked is None:
                return m.ActorCreated(spec.actor_id, again=True)
            args, kwargs = unpacked
            self._runner.actor = self._construct(actor_class, args, kwargs)
            plain: Any = object.__repr__
            if type(self._runner.actor).__repr__ is not plain:
                self._me.actor_shown = self._runner.actor_repr(spec.class_name)
        except SystemExit as leaving:
            self._host.leave(leaving)
        except BaseException as error:
            trace = user_traceback(error)
            self._events.raised(creation.task_id, error, trace)
            done.values = [Value(None, is_error=True)]
            died = self._runner.task_error(creation, trace, None)
            text = f"The actor died because of an error raised in its creation task, {died}"
            return m.ActorCreated(spec.actor_id, Cause(CauseKind.CONSTRUCTOR_RAISED, text))
        finally:
            self._scope.leave(token)
            done.seconds = time.monotonic() - began
            self._events.ran(creation, done)
        return m.ActorCreated(spec.actor_id)

    def _unpack(self, creation: TaskSpec) -> tuple[list[Any], dict[str, Any]] | None:
        """The constructor's arguments; None when it has waited for lost ones without resources."""
        released = False
        while True:
            try:
                arguments = unpack(self._values, creation, may_wait=False)
            except ArgumentsLost as lost:
                tried = lost.tried
            else:
                return None if released else arguments
            for dependency in creation.dependencies:
                object_id, owner = dependency.object_id, dependency.owner
                if object_id not in tried:
                    continue
                nodes, deadline = set(tried[object_id]), time.monotonic() + _PATIENCE_S
                value = self._newer(object_id, owner, nodes, deadline)
                if value is None and time.monotonic() >= deadline:
                    if not released:
                        released = True
                        self._sink.post(self._tell_that_it_waits)
                    value = self._newer(object_id, owner, nodes, None)
                dependency.value = value or lost_value(object_id)

    def _tell_that_it_waits(self) -> None:
        self._sink.to_raylet(m.ActorWaits())

    def end(self) -> None:
        """Run the actor's ``__ray_shutdown__``, which Ray has for this, and let go of it."""
        actor, self._runner.actor = self._runner.actor, None
        shutdown = getattr(actor, "__ray_shutdown__", None)
        if shutdown is None:
            return
        try:
            result = shutdown()
            if self._loops and inspect.iscoroutine(result):
                self._loops[""].run(result)
        except BaseException:  # the user's code, of which nobody waits to hear
            traceback.print_exc()

    def _construct(self, actor_class: Any, args: Any, kwargs: Any) -> Any:
        if not self._loops:
            return actor_class(*args, **kwargs)

        async def construct() -> Any:  # in the loop, so that it finds it running
            if not inspect.iscoroutinefunction(actor_class.__init__):
                return actor_class(*args, **kwargs)
            actor = actor_class.__new__(actor_class, *args, **kwargs)
            await actor_class.__init__(actor, *args, **kwargs)
            return actor

        return self._loops[""].run(construct())

    def drives(self) -> bool:
        """Whether a thread of its own drives the sockets, and all calls start from there."""
        return any(loop.drives() for loop in self._loops.values())

    def runs_elsewhere(self) -> bool:
        """Whether calls run in other threads than the main one."""
        return bool(self._loops or self._pools)

    def refuses(self, connection: Connection, spec: TaskSpec) -> bool:
        """Whether a call names a group that the actor does not have; it is answered so."""
        group = spec.concurrency_group
        if group in self._spec.options.concurrency_groups:
            return False
        self._host.reply(connection, spec, self._runner.refused(spec, self._no_group(group)))
        return True

    def takes(self, connection: Connection, spec: TaskSpec) -> None:
        """Start a call in another thread."""
        if self._loops:
            self._loops[spec.concurrency_group].start(connection, spec)
        else:
            self._pools[spec.concurrency_group].start(self._run_in_pool, connection, spec)

    def _no_group(self, group: str) -> ValueError:
        """Only the option of a call can name such a group: methods are checked beforehand."""
        return ValueError(
            f"Concurrency group {group!r} is not defined; the groups of "
            f"{self._spec.class_name} are {sorted(self._spec.options.concurrency_groups)}."
        )

    def _run_in_pool(self, connection: Connection, spec: TaskSpec) -> None:
        if spec.task_id in self._cancelling.noted:
            self._host.reply(connection, spec, self._runner.cancelled(spec))
            return
        if self._host.is_leaving():
            return
        self.running.add(spec.task_id)
        try:
            done = self._runner.run(connection, spec)
        except SystemExit as leaving:
            self.running.discard(spec.task_id)
            self._host.leave(leaving)
        else:
            self.running.discard(spec.task_id)
            if spec.task_id in self._cancelling.noted:
                self._runner.end_cancelled(spec, done)
            self._host.reply(connection, spec, done)

    async def run_async(self, loop: CallLoop, connection: Connection, spec: TaskSpec) -> None:
        """Run a call as a coroutine and reply."""
        task_id = spec.task_id
        try:
            if self._host.is_leaving():
                return
            self.running.add(task_id)
            done = await self._runner.run_async(connection, spec)
        except SystemExit as leaving:
            self.running.discard(task_id)
            self._host.leave(leaving)
            return
        except asyncio.CancelledError:
            done = self._runner.cancelled(spec)
        finally:
            loop.ended(task_id)
        self.running.discard(task_id)
        self._host.reply(connection, spec, done)
        loop.replied()

    def is_cancelled(self, task_id: bytes) -> bool:
        """Whether a call was cancelled before it began."""
        return task_id in self._cancelling.noted

    def refuse(self, connection: Connection, spec: TaskSpec) -> None:
        """Reply for a call that was cancelled before it began."""
        self._host.reply(connection, spec, self._runner.cancelled(spec))

    def leave(self, leaving: SystemExit) -> None:
        """A coroutine ends this process."""
        self._host.leave(leaving)

    def cancel(self, task_id: bytes) -> None:
        """Cancel a coroutine; a call that runs in a thread cannot be stopped."""
        for loop in self._loops.values():
            loop.cancel(task_id)
