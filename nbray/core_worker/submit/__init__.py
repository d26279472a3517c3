"""Submitting, as decisions: workers are leased, tasks and calls pushed, crashes judged.

Pure: events come in as calls, with peers named by ids and the time as an argument; what is to be
done is appended to ``decisions``, which `core_worker.edge` carries out. This room knows what is
pending (`core_worker.tasks`), and no connection, thread or clock, and not what values are: it
imports nothing of `own`, `values`, `run` and `tell`.
"""
