"""Where tasks and calls come in, from any thread, and where the baton takes them over."""

from __future__ import annotations

import logging
import time
from collections import deque
from functools import partial
from typing import Any, Protocol

from nbray.common.config import Config
from nbray.common.ids import FIRST, handle_id, return_id
from nbray.core_worker.call_site import where_made
from nbray.core_worker.context import origin_outside_tasks, running
from nbray.core_worker.dependencies import Dependencies
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.counting import Counting
from nbray.core_worker.own.streams import Streams
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import ActorCall, Burst, PendingTask, PickledFunction
from nbray.core_worker.tell.task_counts import TaskCounts
from nbray.core_worker.values import arguments
from nbray.core_worker.values.generators import ObjectRefGenerator
from nbray.core_worker.values.readers import Readers
from nbray.exceptions import PendingCallsLimitExceeded
from nbray.object_ref import Kin, ObjectRef, RefHome, make_ref
from nbray.wire.reactor import Reactor
from nbray.wire.records import STREAMING, TaskSpec
from nbray.wire.strategies import InGroup

logger = logging.getLogger(__name__)

_BURST = 64  # who submits without waiting makes a turn itself after so many


class Home(RefHome, arguments.Puts, Protocol):
    """The process as its refs see it, which makes objects of large arguments."""


class Submission:
    """The inbox of tasks and calls."""

    def __init__(
        self, home: Home, config: Config, me: Identity, reactor: Reactor, table: OwnershipTable,
        counting: Counting, streams: Streams, readers: Readers, dependencies: Dependencies,
        leasing: Leasing, calls: ActorCalls, counts: TaskCounts,
    ) -> None:  # fmt: skip
        self._home = home
        self._sites_recorded = config.record_ref_creation_sites
        self._me = me
        self._reactor = reactor
        self._table = table
        self._counting = counting
        self._streams = streams
        self._readers = readers
        self._dependencies = dependencies
        self._leasing = leasing
        self._calls = calls
        self._counts = counts
        self._taking = False
        self._burst: Burst | None = None
        self._new_tasks: deque[PendingTask | tuple[Burst, bytes, bytes]] = deque()
        self._new_calls: deque[ActorCall] = deque()

    # --- submission (any thread) --------------------

    def submit_task(
        self,
        function: PickledFunction,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> list[ObjectRef] | ObjectRefGenerator:
        """Submit a task; its refs, or the generator of them, come back at once."""
        me = self._me
        first = me.new_task_id.first()
        payload, dependencies, contained = arguments.pack(self._home, args, kwargs)
        parent = running.get()
        if parent is not None:
            origin, parent_id = parent.origin, parent.task_id
        else:
            origin, parent_id = origin_outside_tasks(), b""
        burst = self._burst
        if (
            burst is None
            or burst.function is not function
            or burst.options is not options
            or burst.origin != origin
            or burst.parent != parent_id
            or burst.name != name
        ):
            strategy = options.shape.strategy
            group = strategy if isinstance(strategy, InGroup) else None
            burst = self._burst = Burst(
                function, name, options, me.job.job_id, origin, parent_id, group
            )
        home = self._home
        kin = home.kin_of_cell(origin) if origin else home.kin
        refs: list[ObjectRef] | ObjectRefGenerator
        if options.num_returns == 1 and not self._sites_recorded:
            self._table.add_owned(first)
            refs = [make_ref(first, kin)]
        else:
            refs = self._new_refs(first, options.num_returns, options.backpressure, kin)
        if dependencies or contained:
            task = PendingTask(
                options.retries, first=first, args=payload, burst=burst,
                dependencies=dependencies, contained=contained,
            )  # fmt: skip
            self._new_tasks.append(task)
        else:
            self._new_tasks.append((burst, first, payload))
        if len(self._new_tasks) % _BURST:
            self._reactor.notify()
        else:
            self._reactor.try_turn()
        return refs

    def submit_call(
        self,
        actor_id: bytes,
        method: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: TaskOptions,
    ) -> list[ObjectRef] | ObjectRefGenerator:
        """Call a method of an actor; like `submit_task`."""
        me = self._me
        task_id = me.new_task_id()
        payload, dependencies, contained = arguments.pack(self._home, args, kwargs)
        parent = running.get()
        if parent is not None:
            origin, parent_id = parent.origin, parent.task_id
        else:
            origin, parent_id = origin_outside_tasks(), b""
        num_returns = options.num_returns
        spec = TaskSpec(
            task_id, me.job.job_id, b"", name, payload, dependencies, contained, num_returns,
            actor_id, method, 0, 0, options.backpressure, options.concurrency_group, origin,
            None, parent_id,
        )  # fmt: skip
        # A pending call keeps the actor alive, also when its handle has gone.
        self._table.released.append((handle_id(actor_id), 1))
        first = task_id + FIRST
        home = self._home
        kin = home.kin_of_cell(origin) if origin else home.kin
        refs: list[ObjectRef] | ObjectRefGenerator
        if num_returns == 1 and not self._sites_recorded:
            self._table.add_owned(first)
            refs = [make_ref(first, kin)]
        else:
            refs = self._new_refs(first, num_returns, options.backpressure, kin)
        self._new_calls.append(ActorCall(options.retries, spec=spec, options=options))
        if len(self._new_calls) % _BURST:
            self._reactor.notify()
        else:
            self._reactor.try_turn()
        return refs

    def check_room(self, actor_id: bytes, limit: int) -> None:
        """Raise if the actor has ``limit`` calls of this process without a reply.

        Raises:
            PendingCallsLimitExceeded: it has.
        """
        pending = self._calls.pending(actor_id)
        pending += sum(call.spec.actor_id == actor_id for call in list(self._new_calls))
        if pending >= limit:
            raise PendingCallsLimitExceeded(
                f"The call could not be submitted to the actor {actor_id.hex()} because more than "
                f"{limit} tasks are queued on the actor. This limit can be adjusted with the "
                "`max_pending_calls` actor option; or wait for some of the calls first."
            )

    def _new_refs(
        self, first: bytes, wanted: int, backpressure: int, kin: Kin
    ) -> list[ObjectRef] | ObjectRefGenerator:
        task_id = first[:24]
        refs = []
        for index in range(wanted if wanted >= 0 else 1):
            object_id = return_id(task_id, index)
            self._table.add_owned(object_id)
            if self._sites_recorded:
                self._counting.sites[object_id] = where_made()
            refs.append(make_ref(object_id, kin))
        if wanted < 0:
            stream = self._streams.open(task_id, bool(backpressure))
            if wanted == STREAMING:
                return ObjectRefGenerator(self._readers, stream, refs[0])
        return refs

    # --- under the baton --------------------

    def run_again(self, task: PendingTask | ActorCall) -> None:
        """Run a finished task or call once more."""
        task.recall()
        if isinstance(task, ActorCall):
            self._new_calls.append(task)
        else:
            self._new_tasks.append(task)
        if not self._taking:
            self.take_new()

    def take_new(self) -> None:
        """Take over what was submitted since the last turn.

        To look for an argument may submit the task that makes it again, which is taken here too.
        """
        if not (self._new_tasks or self._new_calls):
            return
        self._taking = True
        try:
            while self._new_tasks or self._new_calls:
                if self._new_tasks:
                    self._accept_new_tasks()
                if self._new_calls:
                    self._pass_new_calls()
        finally:
            self._taking = False

    def _accept_new_tasks(self) -> None:
        new_tasks, leasing, counts = self._new_tasks, self._leasing, self._counts
        now = time.monotonic()
        while new_tasks:
            new = new_tasks.popleft()
            if isinstance(new, tuple):
                burst, first, args = new
                counts.submitted(burst.origin, burst.name)
                leasing.add(burst, first, args, now)
                continue
            task = new
            task.submitted = now
            burst = task.burst
            counts.submitted(burst.origin, burst.name)
            leasing.tasks[task.first] = task
            try:
                if not task.dependencies or self._dependencies.resolve_task(task):
                    leasing.enqueue(task)
            except Exception as error:  # it must not take those behind it along
                logger.exception("The task %s could not be queued.", burst.name)
                leasing.refuse(task, error)

    def _pass_new_calls(self) -> None:
        touched = set()
        now, new_calls, submitted = time.monotonic(), self._new_calls, self._counts.submitted
        while new_calls:
            call = new_calls.popleft()
            call.submitted = now
            spec = call.spec
            submitted(spec.origin, spec.name)
            client = self._calls.client(spec.actor_id)
            if spec.dependencies:
                self._dependencies.resolve(call, partial(client.resolved, call))
            if client.submit(call):
                touched.add(client)
        for client in touched:
            client.dispatch()
