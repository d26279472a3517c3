"""A worker's life: the template that forks it, what it runs, what it hosts, what it prints.

`template` builds these parts around a `CoreWorker`; no other module here knows it. A driver imports
what both have: `job_logging`, and `output` to find that it has none.
"""
