"""A worker's life: the template that forks it, what it runs, what it hosts, what it prints.

A driver imports none of it but for what both have (`run.job_logging`).
"""
