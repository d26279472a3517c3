"""Dask's collections on nbray, with Ray's names: `enable_dask_on_ray`, and Dask computes here.

The scheduler is `nbray.util.dask.scheduler`, which callbacks watch (`.callbacks`). What Dask
persists stays in the object store as long as the collection lives: `dask.persist` is told so by
`.persisting`, since it asks for the same as `dask.compute`.

Needs Dask 2024.12 or newer: ``pip install dask``.
"""

from __future__ import annotations

from nbray.util.dask.callbacks import (
    ProgressBarCallback,
    RayDaskCallback,
    local_ray_callbacks,
    unpack_ray_callbacks,
)
from nbray.util.dask.persisting import keep_what_is_persisted, ray_dask_persist
from nbray.util.dask.scheduler import (
    disable_dask_on_ray,
    enable_dask_on_ray,
    ray_dask_get,
    ray_dask_get_sync,
)

__all__ = [
    "ProgressBarCallback",
    "RayDaskCallback",
    "disable_dask_on_ray",
    "enable_dask_on_ray",
    "local_ray_callbacks",
    "ray_dask_get",
    "ray_dask_get_sync",
    "ray_dask_persist",
    "unpack_ray_callbacks",
]

keep_what_is_persisted()
