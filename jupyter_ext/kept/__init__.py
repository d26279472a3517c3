"""Detached cells: they live in the cluster with all that they show and make, whoever looks.

`record` is what a cell shows, as a document that changes; `space` keeps it, durably, in the GCS. In
the cluster stand, for the notebooks of one namespace, a detached actor (`door`) and beside it a
driver of its own (`keeper`), which runs the cells with the same parts as a kernel does, owns their
values and is the only one that writes their records. A notebook hands cells over (`handing`), and
reads the records (`following`): it needs nobody for that but the GCS.

It imports `cell`, `output`, `worker` and the engine's port, and knows neither magics nor commands.
"""
