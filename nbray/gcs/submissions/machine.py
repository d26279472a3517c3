"""What an event makes of the row of a submitted job; no store, no clock and no connection."""

from __future__ import annotations

from dataclasses import dataclass

from nbray.common.life import IllegalTransition
from nbray.gcs.submissions.life import ENDED, TRANSITIONS, Event, State
from nbray.wire.submission_messages import ChangeSubmission, Submission

_MESSAGES = {
    State.RUNNING: "Job is currently running.",
    State.STOPPING: "Job is being stopped.",
    State.STOPPED: "Job was intentionally stopped.",
    State.SUCCEEDED: "Job finished successfully.",
}
MOST_MESSAGE = 24_000


@dataclass
class _Living:
    """A row as `Transitions.move` sees it."""

    state: State
    story: list[str]


def change(row: Submission, request: ChangeSubmission, now: float) -> str:
    """Change a row by what is said of its job; why not, if it stays.

    What is said once more, by the same supervisor, changes nothing and is no error. The end of a
    job is its claimer's word: one of a supervisor that never had it is refused, since the job may
    run elsewhere.
    """
    event = Event(request.event)
    if event is Event.CLAIMED and row.attempt == request.attempt and row.state != State.PENDING:
        return ""
    ends = event in (Event.SUCCEEDED, Event.FAILED)
    if ends and row.attempt and request.attempt and request.attempt != row.attempt:
        return f"another supervisor has the job, which is {row.state}"
    if ends and row.state in ENDED:
        return "" if row.attempt == request.attempt else f"the job is {row.state}"
    living = _Living(State(row.state), row.story)
    try:
        TRANSITIONS.move(
            living, event, now, request.message[:80] or request.error_type or "it was said",
            f"Job {row.submission_id}",
        )  # fmt: skip
    except IllegalTransition:
        return f"the job is {row.state}"
    row.state, row.story = living.state, living.story
    if event is Event.CLAIMED:
        row.attempt, row.node_id = request.attempt, request.node_id
        row.host, row.pid, row.started = request.host, request.pid, now
    row.message = _MESSAGES.get(living.state, "") or request.message[-MOST_MESSAGE:]
    if living.state in ENDED:
        row.ended = now
        row.exit_code = request.exit_code
        row.error_type = request.error_type if living.state is State.FAILED else ""
    return ""
