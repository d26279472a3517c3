"""Real Ray as the engine behind a notebook, on Ray's public API alone.

`nbray.notebook` says what a notebook needs of an engine; `kernel` is Ray behind it. Two sides:

- What runs in Ray's workers, `worker`, `calls` and `post`: they travel there as a part of the
  job's runtime environment (`parcel`), since a Ray cluster has no nbray. They import Python's own
  modules, Ray, and what travels with them: nothing of nbray's wire, ids or processes.
- What runs in the kernel: all others. They may import the port, the rows of `nbray.state`, the
  messages of output and the errors; never a process, a connection or a machine of nbray's.

Nothing here imports ``ray`` when it is imported itself, but `worker` and `post`: whoever does not
use this engine does not need Ray.
"""
