"""The lives of a task, and of an actor at its caller: every event in every state."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from support.pending import pending_call, pending_task

from nbray.common.config import Config
from nbray.common.life import IllegalTransition
from nbray.core_worker import decisions as d
from nbray.core_worker import tasks
from nbray.core_worker.identity import Identity
from nbray.core_worker.submit import actor_state as c
from nbray.core_worker.submit.calls import ActorCalls
from nbray.core_worker.submit.leasing import Leasing
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.tasks import ActorCall
from nbray.exceptions import TaskCancelledError
from nbray.wire import messages as m
from nbray.wire.causes import Cause, CauseKind
from nbray.wire.records import Address, JobConfig, TaskSpec

NODE = b"n" * 28
WORKER = Address(b"w" * 28, NODE, "", "", 0)
OTHER = Address(b"o" * 28, NODE, "", "", 0)
TASK = b"t" * 24
ACTOR = b"a" * 16


def me() -> Identity:
    found = Identity(b"m" * 28)
    found.address = Address(found.worker_id, NODE, "", "", 0)
    found.job = JobConfig(b"job0", "", found.address, [], "")
    return found


class OneTask:
    """A `Leasing` with one task, driven by what reaches a process."""

    def __init__(self, retries: int = 3) -> None:
        self.decisions: deque[Any] = deque()
        self.leasing = Leasing(me(), Config(), self.decisions, lambda _done, _options: True)
        spec = TaskSpec(TASK, b"job0", b"f", "f", b"")
        self.task = pending_task(spec, TaskOptions(retries=retries))
        self.leasing.tasks[self.task.first] = self.task

    def decided(self, kind: type) -> list[Any]:
        return [decision for decision in self.decisions if isinstance(decision, kind)]

    def turn(self) -> None:
        self.leasing.dispatch()

    def push(self) -> None:
        self.leasing.enqueue(self.task)
        self.turn()
        ask = self.decided(d.AskLease)[-1]
        self.leasing.granted(NODE, m.LeaseGranted(ask.request.request_id, 1, WORKER), 0.0)
        self.turn()

    def reach(self, state: tasks.State) -> OneTask:
        match state:
            case tasks.State.QUEUED:
                self.leasing.enqueue(self.task)
            case tasks.State.PUSHED:
                self.push()
            case tasks.State.IN_DOUBT:
                self.push()
                self.leasing.worker_gone(WORKER.worker_id, True)
            case tasks.State.BACKING_OFF:
                self.push()
                self.leasing.worker_gone(WORKER.worker_id, True)
                out = Cause(CauseKind.OUT_OF_MEMORY, "it is full", again=True)
                self.leasing.worker_died(m.WorkerDied(WORKER.worker_id, out))
            case tasks.State.ENDED:
                self.leasing.refuse(self.task, RuntimeError())
        assert self.task.state is state
        return self


@pytest.mark.parametrize("state", tasks.State)
def test_a_task_is_cancelled_in_every_state_and_ends_once(state: tasks.State) -> None:
    one = OneTask().reach(state)
    if state is not tasks.State.ENDED:
        one.leasing.cancel(TASK, force=False)
    if state is tasks.State.PUSHED:
        assert one.task.state is state  # its worker is told, and answers
        one.leasing.done(one.task, WORKER.worker_id, m.TaskDone(TASK, [], 0.0), 0.0)
    if state is tasks.State.IN_DOUBT:
        ended = Cause(CauseKind.ENDED, "it crashed")
        one.leasing.worker_died(m.WorkerDied(WORKER.worker_id, ended))
    assert one.task.state is tasks.State.ENDED
    assert len(one.decided(d.Failed)) == (state is not tasks.State.PUSHED)
    assert one.leasing.find(TASK) is None


@pytest.mark.parametrize("state", tasks.State)
def test_a_process_that_lost_its_cluster_ends_a_task_in_every_state(state: tasks.State) -> None:
    one = OneTask().reach(state)
    one.leasing.fail_all(RuntimeError("no cluster"))
    for wake in one.decided(d.WakeAfter):
        wake.wake(100.0)
    one.leasing.worker_died(m.WorkerDied(WORKER.worker_id, Cause(CauseKind.ENDED, "")))
    assert one.task.state is tasks.State.ENDED
    assert len(one.decided(d.Failed)) == 1


@pytest.mark.parametrize("state", tasks.State)
def test_what_happens_to_a_task_is_in_its_table(state: tasks.State) -> None:
    """Every event that can reach a process: only what the table has moves a task."""

    def cause(kind: CauseKind) -> m.WorkerDied:
        return m.WorkerDied(WORKER.worker_id, Cause(kind, "", again=True))

    events = {
        "granted": lambda it: it.granted(NODE, m.LeaseGranted(9, 9, OTHER), 0.0),
        "died": lambda it: it.worker_died(cause(CauseKind.ENDED)),
        "ran out": lambda it: it.worker_died(cause(CauseKind.OUT_OF_MEMORY)),
        "gone": lambda it: it.worker_gone(WORKER.worker_id, True),
        "never met": lambda it: it.worker_gone(WORKER.worker_id, False),
        "raylet": lambda it: it.raylet_gone(NODE),
        "returned": lambda it: it.returned(m.TasksReturned([TASK]), 0.0),
        "lost": lambda it: it.returned(m.TasksReturned([TASK], {b"o" * 28: [NODE]}), 0.0),
        "bereft": lambda it: it.withdraw(lambda _spec: True),
        "reclaimed": lambda it: it.reclaimed(NODE, m.ReclaimLeases([1])),
        "dispatched": lambda it: it.dispatch(),
        "idle": lambda it: it.return_idle(0.0),
    }
    legal = {after for (before, _event), after in tasks.TRANSITIONS.items() if before is state}
    seen = set()
    for happen in events.values():
        one = OneTask().reach(state)
        happen(one.leasing)
        assert one.task.state in legal | {state}
        seen.add(one.task.state)
        queues = one.leasing._queues.values()
        is_queued = sum(queue.tasks.find(one.task.first) is one.task for queue in queues)
        assert is_queued == (one.task.state is tasks.State.QUEUED)
        assert (one.leasing.find(TASK) is not None) == (one.task.state is not tasks.State.ENDED)
    if state is tasks.State.PUSHED:
        assert seen == {state, tasks.State.QUEUED, tasks.State.WAITING, tasks.State.IN_DOUBT}


@pytest.mark.parametrize(("state", "event", "after"), list(tasks.TRANSITIONS.product()))
def test_the_steps_of_a_task_are_those_of_its_table(
    state: tasks.State, event: tasks.Event, after: tasks.State | None
) -> None:
    step = tasks.TRANSITIONS.on(event)
    if after is None:
        with pytest.raises(IllegalTransition, match=f"A task is {state}"):
            step[state]
    else:
        assert step[state] is after


def test_a_task_that_is_recalled_can_be_cancelled_before_a_worker_has_it() -> None:
    one = OneTask().reach(tasks.State.PUSHED)
    assert one.leasing.done(one.task, WORKER.worker_id, m.TaskDone(TASK, [], 0.0), 0.0) is one.task
    one.task.recall()
    one.leasing.tasks[one.task.first] = one.task
    assert one.leasing.cancel(TASK, force=False) == b""
    assert one.task.state is tasks.State.ENDED


class OneActor:
    """An `ActorCalls` with one actor."""

    def __init__(self) -> None:
        self.decisions: deque[Any] = deque()
        self.calls = ActorCalls(me(), self.decisions, lambda _done, _options: True, 0.0)
        self.client = self.calls.client(ACTOR)
        self.version = 0

    def told(self, state: str, address: Address | None = None) -> None:
        self.version += 1
        cause = Cause(CauseKind.ENDED, "it fell") if state == "DEAD" else None
        self.calls.told(m.ActorState(ACTOR, self.version, state, address, cause), 0.0)

    def cut(self) -> None:
        self.calls.worker_gone(WORKER.worker_id, True, 0.0)

    def reach(self, state: c.State) -> OneActor:
        match state:
            case c.State.ALIVE:
                self.told("ALIVE", WORKER)
            case c.State.OUT_OF_TOUCH:
                self.told("ALIVE", WORKER)
                self.cut()
            case c.State.RESTARTING:
                self.told("RESTARTING")
            case c.State.DEAD:
                self.told("DEAD")
        assert self.client.state is state
        return self

    def call(self, retries: int = 0) -> ActorCall:
        task_id = bytes([len(self.decisions)]) * 24
        spec = TaskSpec(task_id, b"job0", b"", "A.f", b"", actor_id=ACTOR, method="f")
        call = pending_call(spec, TaskOptions(retries=retries))
        self.client.submit(call)
        self.client.dispatch()
        return call

    def errors(self) -> list[str]:
        failed = [decision for decision in self.decisions if isinstance(decision, d.Failed)]
        return [type(failure.error).__name__ for failure in failed]


HAPPENS = {
    c.Event.MADE: lambda one: one.told("PENDING"),
    c.Event.STARTED: lambda one: one.told("ALIVE", WORKER),
    c.Event.LOST: lambda one: one.told("RESTARTING"),
    c.Event.CLOSED: lambda one: one.cut(),
    c.Event.ENDED: lambda one: one.told("DEAD"),
}


@pytest.mark.parametrize(("state", "event", "after"), list(c.TRANSITIONS.product()))
def test_what_a_caller_learns_of_an_actor_moves_it_as_its_table_says(
    state: c.State, event: c.Event, after: c.State | None
) -> None:
    """What the table does not have may come late, and changes nothing."""
    one = OneActor().reach(state)
    HAPPENS[event](one)
    assert one.client.state is (state if after is None else after)
    if after is not None and after is not state:
        assert f"{state} -> {after}" in one.client.story[-1]


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize("event", c.Event)
@pytest.mark.parametrize("state", c.State)
def test_a_call_of_an_actor_ends_whatever_becomes_of_it(
    state: c.State, event: c.Event, retries: int
) -> None:
    one = OneActor().reach(state)
    call = one.call(retries)
    HAPPENS[event](one)
    one.told("DEAD")
    for wake in [w for w in one.decisions if isinstance(w, d.WakeAfter)]:
        wake.wake(0.0)
    assert call.state is tasks.State.ENDED
    assert len(one.errors()) == 1


def test_a_call_whose_actor_is_out_of_touch_is_in_doubt_until_there_is_news() -> None:
    one = OneActor().reach(c.State.ALIVE)
    call = one.call()
    one.cut()
    assert call.state is tasks.State.IN_DOUBT
    one.told("RESTARTING")
    assert call.state is tasks.State.ENDED
    assert one.errors() == ["ActorUnavailableError"]


def test_a_call_that_may_be_repeated_goes_in_front_of_later_ones() -> None:
    one = OneActor().reach(c.State.ALIVE)
    first = one.call(retries=1)
    one.cut()
    second = one.call(retries=1)
    one.told("ALIVE", OTHER)
    pushes = [push for push in one.decisions if isinstance(push, d.PushCalls)]
    assert [call for push in pushes for call in push.calls] == [first, first, second]
    assert pushes[-1].worker == OTHER


def test_calls_behind_one_that_waits_for_an_argument_are_sent_when_it_is_cancelled() -> None:
    one = OneActor().reach(c.State.ALIVE)
    waits, ready = (
        pending_call(
            TaskSpec(task_id * 24, b"job0", b"", "A.f", b"", actor_id=ACTOR, method="f"),
            TaskOptions(),
        )
        for task_id in (b"1", b"2")
    )
    waits.unresolved = 1
    for call in (waits, ready):
        one.client.submit(call)
        one.client.dispatch()
    assert ready.state is tasks.State.QUEUED
    assert one.calls.cancel(waits.spec.task_id) == b""
    assert (waits.state, ready.state) == (tasks.State.ENDED, tasks.State.PUSHED)


def test_a_call_that_raised_is_not_made_again_by_an_actor_that_has_died() -> None:
    """News of a death may overtake the last replies."""
    one = OneActor().reach(c.State.ALIVE)
    call = one.call(retries=1)
    one.told("DEAD")
    answer = m.TaskDone(call.spec.task_id, [], 0.0, retry=True)
    assert one.calls.done(WORKER.worker_id, answer) is call
    assert call.state is tasks.State.ENDED


def test_a_call_that_was_cancelled_is_not_made_again_when_its_actor_comes_back() -> None:
    one = OneActor().reach(c.State.ALIVE)
    call = one.call(retries=1)
    assert one.calls.cancel(call.spec.task_id) == WORKER.worker_id
    one.cut()
    one.told("RESTARTING")
    one.told("ALIVE", OTHER)
    assert call.state is tasks.State.ENDED
    assert one.errors() == ["TaskCancelledError"]


def test_a_task_that_was_cancelled_on_its_way_to_a_worker_that_is_not_there_ends() -> None:
    one = OneTask().reach(tasks.State.PUSHED)
    assert one.leasing.cancel(TASK, force=False) == WORKER.worker_id
    one.leasing.worker_gone(WORKER.worker_id, False)
    assert one.task.state is tasks.State.ENDED
    (failed,) = one.decided(d.Failed)
    assert isinstance(failed.error, TaskCancelledError)
