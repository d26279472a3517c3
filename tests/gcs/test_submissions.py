"""The life of a submitted job: the table, and what is said twice, late, or by the wrong one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbray.gcs.receipts import Receipts
from nbray.gcs.storage import Store
from nbray.gcs.storage.memory import MemoryBackend
from nbray.gcs.storage.sqlite import SqliteBackend
from nbray.gcs.submissions.life import ENDED, TRANSITIONS, Event, State
from nbray.gcs.submissions.machine import change
from nbray.gcs.submissions.table import SubmissionTable
from nbray.wire import submission_messages as s

MINE, OTHER = b"\x01" * 16, b"\x02" * 16


def row(state: State) -> s.Submission:
    claimed = state not in (State.PENDING,)
    return s.Submission("a", "true", state=state.value, attempt=MINE if claimed else b"")


def say(event: Event, attempt: bytes = MINE) -> s.ChangeSubmission:
    return s.ChangeSubmission("a", event.value, attempt, "why", "TYPE", 3)


@pytest.mark.parametrize("state", [state for state in State if state is not State.DELETED])
@pytest.mark.parametrize("event", list(Event))
def test_every_event_in_every_state_does_what_the_table_says(state: State, event: Event) -> None:
    job = row(state)
    why = change(job, say(event), 1.0)
    after = TRANSITIONS.get((state, event))
    if after is not None:
        assert (why, job.state) == ("", after)
        return
    assert job.state == state, "what cannot be changes nothing"
    again = event is Event.CLAIMED or (event in (Event.SUCCEEDED, Event.FAILED) and state in ENDED)
    assert bool(why) != again, "and it is refused, but to the supervisor that says it once more"


@pytest.mark.parametrize("state", [State.RUNNING, State.STOPPING, *sorted(ENDED)])
def test_a_second_supervisor_never_gets_a_job_nor_ends_it(state: State) -> None:
    for event in (Event.CLAIMED, Event.SUCCEEDED, Event.FAILED):
        job = row(state)
        assert change(job, say(event, OTHER), 1.0)
        assert (job.state, job.attempt) == (state, MINE)


def test_a_job_that_was_stopped_before_it_began_never_begins() -> None:
    job = row(State.PENDING)
    assert not change(job, say(Event.ASKED_TO_STOP, b""), 1.0)
    assert job.state == "STOPPED" and job.message == "Job was intentionally stopped."
    assert change(job, say(Event.CLAIMED), 2.0) and not job.attempt


def test_what_the_manager_says_of_a_lost_supervisor_ends_its_job() -> None:
    job = row(State.RUNNING)
    assert not change(job, say(Event.FAILED, b""), 1.0)
    assert (job.state, job.message, job.error_type) == ("FAILED", "why", "TYPE")


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(Event)), st.sampled_from([MINE, OTHER, b""])), max_size=9
    )
)
def test_of_many_supervisors_one_at_most_is_ever_let_run(said: list[tuple[Event, bytes]]) -> None:
    job = row(State.PENDING)
    let = set()
    for event, attempt in said:
        if event is Event.CLAIMED and not attempt:
            continue
        if job.state == State.DELETED:
            break
        if not change(job, say(event, attempt), 1.0) and event is Event.CLAIMED:
            let.add(attempt)
    assert len(let) <= 1
    assert not let or job.attempt in let


def table_on(store: Store) -> SubmissionTable:
    return SubmissionTable(store, Receipts(store))


def test_rows_are_there_again_after_a_restart_and_a_request_is_taken_once(tmp_path: Path) -> None:
    async def first() -> None:
        table = table_on(Store(SqliteBackend(tmp_path / "gcs.db")))
        submitted = s.SubmitJob(s.Submission("a", "true", request_id=b"1"))
        assert (await table._submit(submitted)).done
        assert (await table._submit(submitted)).done, "the answer had been lost"
        refused = await table._submit(s.SubmitJob(s.Submission("a", "false", request_id=b"2")))
        assert not refused.done and "already exists" in refused.why

    async def second() -> None:
        table = table_on(Store(SqliteBackend(tmp_path / "gcs.db")))
        found = await table._get(s.SubmissionId("a"))
        assert found.row is not None and found.row.entrypoint == "true"
        assert (await table._change(say(Event.CLAIMED))).done
        assert not (await table._change(say(Event.CLAIMED, OTHER))).done

    asyncio.run(first())
    asyncio.run(second())


def test_who_asks_again_to_stop_or_to_forget_a_job_is_told_that_it_was_done(tmp_path: Path) -> None:
    stop, forget = say(Event.ASKED_TO_STOP, b""), say(Event.DELETED, b"")

    async def once(request: s.ChangeSubmission) -> None:
        table = table_on(Store(SqliteBackend(tmp_path / "gcs.db")))
        await table._submit(s.SubmitJob(s.Submission("a", "true", request_id=b"1")))
        assert (await table._change(request)).done

    async def again(request: s.ChangeSubmission) -> None:
        table = table_on(Store(SqliteBackend(tmp_path / "gcs.db")))
        assert (await table._change(request)).done, "its answer had been lost"
        other = say(Event(request.event), b"")
        assert not (await table._change(other)).done

    for request in (stop, forget):
        asyncio.run(once(request))
        asyncio.run(again(request))


def test_a_watcher_hears_of_each_change_and_begins_anew_with_another_gcs() -> None:
    async def story() -> None:
        table = table_on(Store(MemoryBackend()))
        for name in ("a", "b"):
            await table._submit(s.SubmitJob(s.Submission(name, "true", request_id=name.encode())))
        reply = await table._watch(s.WatchSubmissions())
        assert [row.submission_id for row in reply.rows] == ["a", "b"] and reply.complete
        waiting = asyncio.ensure_future(
            table._watch(s.WatchSubmissions(reply.epoch, reply.version, 20.0))
        )
        await asyncio.sleep(0)
        await table._change(say(Event.ASKED_TO_STOP, b""))
        news = await waiting
        assert [(row.submission_id, row.state) for row in news.rows] == [("a", "STOPPED")]
        await table._change(say(Event.DELETED, b""))
        gone = await table._watch(s.WatchSubmissions(news.epoch, news.version, 20.0))
        assert gone.gone == ["a"] and not gone.rows
        anew = await table._watch(s.WatchSubmissions(b"another", 99, 20.0))
        assert anew.complete and [row.submission_id for row in anew.rows] == ["b"]

    asyncio.run(story())


def test_ended_jobs_are_a_ring_and_large_tables_come_in_parts() -> None:
    async def story() -> None:
        table = table_on(Store(MemoryBackend()))
        for number in range(1010):
            name = str(number)
            large = s.Submission(name, "x" * 90_000, request_id=name.encode())
            await table._submit(s.SubmitJob(large))
            stop = s.ChangeSubmission(name, Event.ASKED_TO_STOP.value)
            await table._change(stop)
        found: list[str] = []
        request = s.WatchSubmissions()
        while True:
            reply = await table._watch(request)
            found += [row.submission_id for row in reply.rows]
            assert sum(len(row.entrypoint) for row in reply.rows) <= 16 << 20
            if not reply.more:
                break
            request = s.WatchSubmissions(reply.epoch, reply.version)
        assert found == [str(number) for number in range(10, 1010)], "the newest thousand"

    asyncio.run(story())
