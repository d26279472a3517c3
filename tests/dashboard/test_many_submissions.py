"""What is asked of jobs when there are many of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tornado.web import HTTPError

from nbray.dashboard.jobs import JobsPort
from nbray.state.submissions import Submission, Submissions, all_jobs, supervisor_name

_MANY = 20_000


class _Counted(str):
    """A name that counts with how many others it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        _Counted.compared += 1
        return str.__eq__(self, other)  # type: ignore[arg-type]

    __hash__ = str.__hash__


def test_a_list_of_many_jobs_looks_at_each_of_their_supervisors_and_drivers_once() -> None:
    names = [f"job{number}" for number in range(_MANY)]
    rows = [Submission(name, "true", submitted=number) for number, name in enumerate(names)]
    actors: list[Any] = [
        SimpleNamespace(name=_Counted(supervisor_name(name)), pending_reason=f"why {name}")
        for name in names
    ]
    drivers: list[Any] = [
        SimpleNamespace(
            metadata={"job_submission_id": _Counted(name)}, job_id=f"{order} of {name}",
            driver_info=None, namespace="",
        )
        for order in ("first", "second")
        for name in names
    ]  # fmt: skip
    found = all_jobs(rows, drivers, actors)
    assert [row.submission_id for row in found] == names[::-1]
    assert all(row.job_id == f"first of {row.submission_id}" for row in found)
    assert all(str(row.message).endswith(f"why {row.submission_id}") for row in found)
    assert _Counted.compared < 10 * _MANY


def test_who_stops_a_job_asks_for_that_job_alone() -> None:
    class _Rows:
        async def get(self, submission_id: str) -> Submission | None:
            return Submission("known", "true") if submission_id == "known" else None

        async def ask(self, query: Any) -> list[Any]:
            self.asked = query.method
            return []

    rows = _Rows()
    port = JobsPort(cast(Submissions, rows), cast(Any, None), cast(Any, None))
    assert asyncio.run(port.submission("known", "stop")).submission_id == "known"
    assert not hasattr(rows, "asked"), "all jobs or actors were asked for"
    with pytest.raises(HTTPError, match="Job other does not exist"):
        asyncio.run(port.submission("other", "stop"))
