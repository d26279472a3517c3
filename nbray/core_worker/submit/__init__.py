"""Submitting: workers are leased, tasks and calls pushed, crashes judged, actors and groups made.

Knows what is pending (`core_worker.tasks`), not what its values are: `own` and `values` are no
business of this room, nor is what runs in a worker.
"""
