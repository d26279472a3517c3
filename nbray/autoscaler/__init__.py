"""The autoscaler: a process on the head that lets a cluster grow and shrink with its demand.

It imports `nbray.machines` and `nbray.launcher`, since its providers start nodes, and what lies
below them; of a cluster it knows what the GCS answers. Nothing of a running cluster imports it:
the launcher starts ``python -m nbray.autoscaler`` by name. `sdk` is its face for programs.
"""
