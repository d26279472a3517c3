"""What each cell of the tutorials begins with and shows, for the tests that run them."""

from __future__ import annotations

Shown = list[tuple[str, str]]
"""What begins a cell, and what it has to show ("" for nothing)."""

FROM_IPYPARALLEL: Shown = [
    ("%load_ext", ""),
    ("%nbray start", "1 node"),
    ("import os", ""),
    ("%%remote\nthere", "not the kernel: True"),
    ("import numpy", ""),
    ("%%remote\ntotal", ""),
    ("print('the sum", "the sum is 499999500000.0"),
    ("%%remote --map n", "[285, 328350, 332833500]"),
    ("import nbray", "[285, 328350, 332833500]"),
    ("%%remote --actor counter\ncount = 0", ""),
    ("%%remote --actor counter\ncount +=", "count is 1"),
    ("%%remote --actor counter\ncount +=", "count is 2"),
    ("print('here there", "here there is no count: False"),
    ("%%remote --actor other", ""),
    ("%%remote --targets", ""),
    ("doubled", "[4, 200]"),
    ("%%remote --noblock", "<remote cell In [17]: "),
    ("await _", "it came"),
    ("%%remote --map x", "ZeroDivisionError: division by zero"),
    ("%nbray stop", "nbray is stopped."),
]
FROM_DASK: Shown = [
    ("%load_ext", ""),
    ("%nbray start", "1 node"),
    ("import time", ""),
    ("a = inc", "5"),
    ("level = ", "36"),
    ("@nbray.remote\ndef nap", "[0.1, 0.6]"),
    ("import numpy", ""),
    ("%%remote --map part", "25011"),
    ("means", "array([0., 1., 2., 3.])"),
    ("%nbray objects", "values   as sent to remote cells  3.2 MB"),
    ("%nbray objects --release", "groups   as sent to remote cells  3.2 MB"),
    ("%nbray stop", "nbray is stopped."),
]
FROM_RAY: Shown = [
    ("%load_ext", ""),
    ("import nbray as ray", "True"),
    ("@ray.remote\ndef square", "[0, 1, 4, 9]"),
    ("import numpy", "(1000000.0, False)"),
    ("@ray.remote\nclass Counter", "10"),
    ("def price(n):\n    return n * 2", "21"),
    ("def price(n):\n    return n * 3", ""),
    ("ray.get(bill", "31"),
    ("%%remote --actor counter", "110"),
    ("ray.get(c.get", "110"),
    ("%%remote --num-cpus", ""),
    ("peak", "50"),
    ("%nbray actors", "counter  Counter  ALIVE"),
    ("%nbray tasks", "Counter.incr  10 "),
    ("ray.shutdown", "False"),
]
