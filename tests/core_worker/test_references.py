"""The reference counts of a whole cluster against a model: the true set of holders.

Processes put, fetch, drop and pass refs, as arguments, inside arguments and inside values; every
message arrives when hypothesis says so, and processes die in between. The model knows which refs
are alive and what each value contains. An object must not be freed while a ref of it can be
reached, and when all have gone, no process may have an entry left.
"""

from __future__ import annotations

import os
import random

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.simulation import End, Network, Running, SimProcess

from nbray.common.ids import return_id
from nbray.wire.records import ids_in

COUNT = 4


class References(RuleBasedStateMachine):
    """Processes that do not die: nothing may be lost, and nothing left over."""

    deaths = False

    def __init__(self) -> None:
        super().__init__()
        self.network = Network(COUNT)
        self.made_by: dict[bytes, SimProcess] = {}
        self.contents: dict[bytes, list[bytes]] = {}

    # --- what is drawn --------------------

    def living(self) -> list[SimProcess]:
        return [p for p in self.network.processes if p.alive]

    def draw_process(self, data: st.DataObject) -> SimProcess:
        return data.draw(st.sampled_from(self.living()), label="process")

    def draw_some(self, data: st.DataObject, refs: list[bytes], most: int = 2) -> list[bytes]:
        if not refs:
            return []
        return data.draw(st.lists(st.sampled_from(refs), max_size=most), label="refs")

    # --- programs --------------------

    @rule(data=st.data(), stored=st.booleans())
    def put(self, data: st.DataObject, stored: bool) -> None:
        process = self.draw_process(data)
        inner = self.draw_some(data, process.refs)
        object_id = process.put(inner, stored)
        self.made_by[object_id] = process
        self.contents[object_id] = inner

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.refs:
            process.drop(data.draw(st.sampled_from(process.refs), label="ref"))

    @rule(data=st.data())
    def fetch(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.refs:
            process.fetch(data.draw(st.sampled_from(process.refs), label="ref"))

    @rule(data=st.data())
    def open(self, data: st.DataObject) -> None:
        """`get` of a value that is there: its refs are refs of this process now."""
        process = self.draw_process(data)
        here = [ref for ref in process.refs if self.value_of(process, ref) is not None]
        if here:
            outer = data.draw(st.sampled_from(here), label="ref")
            value = self.value_of(process, outer)
            assert value is not None
            process.refs += process.open(outer, value)

    def value_of(self, process: SimProcess, object_id: bytes):  # type: ignore[no-untyped-def]
        entry = process.table.get(object_id)
        return None if entry is None else entry.value

    @rule(data=st.data())
    def submit(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        others = [p for p in self.living() if p is not process]
        if others:
            worker = data.draw(st.sampled_from(others), label="worker")
            object_id = process.submit(
                worker, self.draw_some(data, process.refs), self.draw_some(data, process.refs)
            )
            self.made_by[object_id] = process

    @rule(data=st.data())
    def submit_and_run(self, data: st.DataObject) -> None:
        """A task as far as its end; its reply is still to be sent."""
        process = self.draw_process(data)
        others = [p for p in self.living() if p is not process]
        if others and process.refs:
            worker = data.draw(st.sampled_from(others), label="worker")
            arguments = self.draw_some(data, process.refs)
            plain = data.draw(st.booleans(), label="plain")
            object_id = process.submit(
                worker, arguments if plain else [], [] if plain else arguments
            )
            self.made_by[object_id] = process
            self.settle()
            if worker.queue:
                task = worker.start()
                self.end(data, worker, task)

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.queue:
            process.start()

    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        process = self.draw_process(data)
        if process.running:
            task = data.draw(st.sampled_from(process.running), label="task")
            self.end(data, process, task)

    def end(self, data: st.DataObject, worker: SimProcess, task: Running) -> None:
        """The task returns; no value contains itself, which nobody could ever free."""
        made = return_id(task.spec.task_id, 0)
        keep = self.draw_some(data, task.refs)
        able = [ref for ref in task.refs + worker.refs if not self.contains(ref, made)]
        give = self.contents[made] = self.draw_some(data, able)
        worker.finish(task, keep, give, data.draw(st.booleans(), label="stored"))

    def contains(self, outer: bytes, inner: bytes) -> bool:
        return outer == inner or any(self.contains(x, inner) for x in self.contents.get(outer, ()))

    # --- time --------------------

    @rule(data=st.data(), count=st.integers(1, 4))
    def deliver(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            news = self.network.news()
            if news:
                news[data.draw(st.integers(0, len(news) - 1), label="end")].deliver()

    @rule(seed=st.integers(0, 1 << 30), count=st.integers(5, 20))
    def rush(self, seed: int, count: int) -> None:
        """Many small steps in a random order."""
        generator = random.Random(seed)
        for _ in range(count):
            news: list[End | SimProcess] = [*self.network.news(), *self.living()]
            chosen = generator.choice(news)
            if isinstance(chosen, End):
                chosen.deliver()
            else:
                chosen.turn()

    @rule(data=st.data())
    def turn(self, data: st.DataObject) -> None:
        self.draw_process(data).turn()

    @rule()
    def settle(self) -> None:
        self.network.settle()

    # --- what must hold --------------------

    def held(self) -> set[bytes]:
        """What can be reached from refs of programs, tasks that run, and tasks that wait."""
        found: set[bytes] = set()
        todo: list[bytes] = []
        for process in self.living():
            todo += process.refs
            for running in process.running:
                todo += running.refs
            for task in process.tasks.values():
                todo += [d.object_id for d in task.spec.dependencies]
                todo += ids_in(task.spec.contained)
        while todo:
            object_id = todo.pop()
            if object_id not in found:
                found.add(object_id)
                entry = self.made_by[object_id].table.get(object_id)
                if entry is not None and entry.value is not None:
                    todo += ids_in(entry.value.contained)
        return found

    @invariant()
    def nothing_is_freed_while_it_is_held(self) -> None:
        if self.deaths:
            return
        for object_id in self.held():
            owner = self.made_by[object_id]
            assert owner.table.get(object_id) is not None, "freed while it was held"
            assert object_id not in owner.raylet.freed, "its memory was freed while it was held"
        for process in self.living():
            for object_id in process.refs:
                assert process.table.get(object_id) is not None, "a ref without an entry"

    def teardown(self) -> None:
        self.network.settle()
        for _ in range(COUNT * 2):
            for process in self.living():
                while process.queue:
                    process.start()
                for task in list(process.running):
                    process.finish(task, [], [], False)
            self.network.settle()
        for process in self.living():
            for object_id in list(process.refs):
                process.drop(object_id)
        self.network.settle()
        for process in self.living():
            assert len(process.table) == 0, f"process {process.index} has entries left"
            assert not process.borrowing._handovers
            assert not process.borrowing._found
            assert not process.peers._replies
            freed = process.raylet.freed
            assert len(freed) == len(set(freed)), "something was freed twice"


class ReferencesWithDeaths(References):
    """Processes die at any moment: what they held is let go of, and nothing is left over."""

    deaths = True

    def __init__(self) -> None:
        super().__init__()
        self.known: set[tuple[SimProcess, bytes]] = set()

    @precondition(lambda self: len(self.living()) > 1)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        self.draw_process(data).kill()

    @rule()
    def settle(self) -> None:
        """From here on, a ref that its owner knows of must outlast the deaths of all others."""
        super().settle()
        for process in self.living():
            for object_id in process.refs:
                entry = self.made_by[object_id].table.get(object_id)
                if entry is not None and (
                    (entry.owner is None and self.made_by[object_id] is process)
                    or (entry.borrowers and process.name in entry.borrowers)
                ):
                    self.known.add((process, object_id))

    @invariant()
    def what_an_owner_knows_to_be_held_stays(self) -> None:
        for process, object_id in list(self.known):
            owner = self.made_by[object_id]
            if not process.alive or not owner.alive or object_id not in process.refs:
                self.known.discard((process, object_id))
            else:
                assert owner.table.get(object_id) is not None, "freed while a borrower lives"
                assert object_id not in owner.raylet.freed


SETTINGS = settings(
    max_examples=int(os.environ.get("NBRAY_TEST_EXAMPLES", 60)), stateful_step_count=50,
    deadline=None, suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
TestReferences = References.TestCase
TestReferences.settings = SETTINGS
TestReferencesWithDeaths = ReferencesWithDeaths.TestCase
TestReferencesWithDeaths.settings = SETTINGS


# --- stories --------------------


def deliver_all(network: Network, to: SimProcess) -> None:
    """What is on its way to one process arrives."""
    while news := [end for end in network.news() if end.on_closed == to.peers._closed]:
        news[0].deliver()


def run(
    network: Network, submitter: SimProcess, worker: SimProcess, inside: list[bytes]
) -> Running:
    """A task with refs inside its arguments, as far as its start."""
    submitter.submit(worker, [], inside)
    network.settle()
    return worker.start()


def test_a_ref_argument_leaves_nothing_at_the_worker() -> None:
    network = Network(2)
    driver, worker = network.processes
    driver.submit(worker, [driver.put([], stored=True)], [])
    network.settle()
    worker.finish(worker.start(), [], [], stored=False)
    network.settle()
    assert len(worker.table) == 0
    assert not driver.raylet.freed


def test_refs_that_were_returned_to_a_caller_that_died_are_let_go() -> None:
    network = Network(2)
    caller, actor = network.processes
    inner = actor.put([], stored=True)
    task = run(network, caller, actor, [])
    actor.finish(task, [], [inner], stored=False)
    actor.turn()
    actor.drop(inner)
    caller.kill()
    network.settle()
    assert len(actor.table) == 0
    assert actor.raylet.freed == [inner]


def test_a_ref_that_dies_while_another_is_unpickled_is_still_known() -> None:
    network = Network(2)
    driver, worker = network.processes
    ref = driver.put([], stored=True)
    first, second = run(network, driver, worker, [ref]), run(network, driver, worker, [ref])
    worker.finish(first, [ref], [], stored=False)
    network.settle()
    worker.finish(second, [], [], stored=False)
    network.settle()
    driver.submit(worker, [], [ref])
    network.settle()
    worker.drop(ref)
    again = worker.start()  # before the death of the last ref is counted
    worker.turn()
    assert worker.table.get(ref) is not None
    worker.finish(again, [ref], [], stored=False)
    driver.drop(ref)
    network.settle()
    assert worker.table.get(ref) is not None
    assert not driver.raylet.freed
    worker.drop(ref)
    network.settle()
    assert driver.raylet.freed == [ref]


def test_a_reply_waits_until_the_owners_of_kept_refs_know_of_the_worker() -> None:
    network = Network(3)
    owner, submitter, worker = network.processes
    ref = owner.put([], stored=True)
    owner.finish(run(network, submitter, owner, []), [], [ref], stored=False)
    owner.drop(ref)
    network.settle()
    (outer,) = submitter.refs
    value = submitter.table[outer].value
    assert value is not None
    submitter.refs += submitter.open(outer, value)
    task = run(network, submitter, worker, [ref])
    submitter.drop(outer)
    submitter.drop(ref)
    worker.finish(task, [ref], [], stored=False)
    worker.turn()
    deliver_all(network, submitter)
    submitter.turn()
    network.settle()
    assert not owner.raylet.freed
    submitter.kill()
    network.settle()
    assert not owner.raylet.freed
    worker.kill()
    network.settle()
    assert owner.raylet.freed == [ref]


def test_an_owner_counts_a_ref_once_that_stands_twice_in_what_a_borrower_reads() -> None:
    network = Network(3)
    owner, middle, reader = network.processes
    inner = owner.put([], stored=True)
    task = run(network, middle, owner, [])
    owner.finish(task, [], [inner, inner], stored=False)
    owner.drop(inner)
    network.settle()
    (outer,) = middle.refs
    middle.submit(reader, [outer], [])
    network.settle()
    reader.finish(reader.start(), [inner, inner], [], stored=False)
    network.settle()
    middle.drop(outer)
    network.settle()
    assert owner.table[inner].borrowers == {reader.name: 1}
    reader.drop(inner)
    reader.drop(inner)
    for one in list(middle.refs):
        middle.drop(one)
    network.settle()
    assert owner.raylet.freed == [inner]
    assert not any(len(process.table) for process in network.processes)
