"""The driver: a program's part of a cluster, from `nbray.init` to `nbray.shutdown`.

Here live the driver object and how it joins or starts a cluster, the options of `init`, the job's
and the loggers' settings, what `init` returns, where the output of tasks goes, and what a program
asks of its cluster and adds to it.

It imports the core worker, the launcher and `nbray.state`; it does not know calls, so everything
that submits stands above it.
"""
