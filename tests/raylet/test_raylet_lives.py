"""The lives of a worker and of a lease at its raylet, as tables."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from nbray.common.life import IllegalTransition, walk
from nbray.raylet.workers import lease as leases
from nbray.raylet.workers import worker_life as workers
from nbray.raylet.workers.worker import Worker
from nbray.runtime_env.setup import PLAIN


def worker_in(state: workers.State) -> Worker:
    return Worker(b"w" * 28, "", PLAIN, state)


def lease_in(state: leases.State) -> leases.LeaseLife:
    return leases.LeaseLife(cast(Any, None), cast(Any, SimpleNamespace(request_id=7)), state)


def test_a_worker_does_what_its_table_says_and_nothing_else() -> None:
    steps = {event: lambda w, event=event: w.move(event) for event in workers.Event}
    walk(workers.TRANSITIONS, worker_in, steps, lambda worker: worker.state)


def test_a_lease_does_what_its_table_says_and_nothing_else() -> None:
    steps = {event: lambda x, event=event: x.move(event, 0.0) for event in leases.Event}
    walk(leases.TRANSITIONS, lease_in, steps, lambda lease: lease.state)


@pytest.mark.parametrize(
    "first", [workers.Event.LOST, workers.Event.ENDED_BY_WISH, workers.Event.ASKED]
)
def test_the_first_word_on_the_end_of_a_worker_counts(first: workers.Event) -> None:
    ends = [workers.Event.ENDED_BY_WISH, workers.Event.LOST, workers.Event.ASKED]
    for second in ends:
        worker = worker_in(workers.State.IDLE)
        worker.move(first)
        worker.move(second)
        worker.move(workers.Event.GONE)
        meant = first is not workers.Event.LOST
        assert worker.state is (workers.State.LEFT if meant else workers.State.FAILED)


def test_a_wrong_step_tells_the_story() -> None:
    lease = lease_in(leases.State.PREPARING)
    lease.move(leases.Event.QUEUED, 0.0)
    lease.move(leases.Event.GRANTED, 1.0)
    lease.move(leases.Event.LEASED, 2.0, "worker pid 8")
    with pytest.raises(IllegalTransition) as raised:
        lease.move(leases.Event.GRANTED, 3.0)
    assert "The lease of request 7 is HELD and cannot be given resources" in str(raised.value)
    assert "00:00:02 STARTING -> HELD, given a worker: worker pid 8" in str(raised.value)
