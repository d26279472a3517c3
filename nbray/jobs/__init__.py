"""Submitted jobs: who starts them, who runs them, and who ends them.

`manager` is a driver of its own (``python -m nbray.jobs``), which the dashboard starts when there
is a job and starts again when it ends: it makes one supervisor, a detached actor, for each job and
says what became of those that died. `supervisor` claims its job at the GCS, which one of them can,
runs its entrypoint by a `keeper`, and says how it ended. What is known of a job is its row in the
GCS (`nbray.gcs.submissions`) and nothing else, so each of these may be killed at any moment.

This package uses the public API and messages to the GCS; it knows neither the dashboard nor HTTP.
"""
