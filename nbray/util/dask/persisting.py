"""What Dask persists stays in the object store: only refs of it come to the driver."""

from __future__ import annotations

import functools
from typing import Any

import dask
import dask.base

from nbray.util.dask.scheduler import ray_dask_get, ray_dask_get_sync

_persist = dask.base.persist


@functools.wraps(_persist)
def ray_dask_persist(*args: Any, **kwargs: Any) -> Any:
    """`dask.persist`, whose values stay in the cluster if the scheduler is this one."""
    scheduler = dask.base.get_scheduler(scheduler=kwargs.get("scheduler"))
    if scheduler in (ray_dask_get, ray_dask_get_sync):
        kwargs.setdefault("ray_persist", True)
    return _persist(*args, **kwargs)


def keep_what_is_persisted() -> None:
    """Put `ray_dask_persist` in the place of `dask.persist`.

    Dask asks a scheduler for the same values whether they are to come or to stay, and collections
    call what `dask.base` has.
    """
    for module in (dask, dask.base):
        module.persist = ray_dask_persist  # type: ignore[attr-defined]
