"""The way of output: what tasks print and display, and how far they are, sorted by cell.

`cell_output` decides and knows no clock, thread or Jupyter; `router` has the thread and the
kernel. It imports `pictures` and the engine's port, and knows no remote cells.
"""
