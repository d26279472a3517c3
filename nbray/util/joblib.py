"""joblib's work on the cluster: ``register_nbray()``, then ``parallel_backend("nbray")``."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import AutoBatchingMixin, ParallelBackendBase

from nbray.calls.api import cancel, put, remote
from nbray.driver.cluster import cluster_resources
from nbray.driver.driver import init, is_initialized
from nbray.exceptions import TaskError
from nbray.object_ref import ObjectRef

__all__ = ["register_nbray", "register_ray"]


def register_nbray() -> None:
    """Make the backends "nbray" and "ray" known to joblib.

    Examples:
        >>> import joblib
        >>> from nbray.util.joblib import register_nbray
        >>> register_nbray()
        >>> with joblib.parallel_backend("nbray"):
        ...     joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(-x) for x in range(3))
        [0, 1, 2]
    """
    for name in ("nbray", "ray"):
        register_parallel_backend(name, NbrayBackend)


register_ray = register_nbray


class _Place:
    """Stands in a call for the ``index``-th of what its batch shares with others."""

    def __init__(self, index: int) -> None:
        self.index = index


def _run(batch: Any, *shared: Any) -> Any:
    if shared:
        batch.items = _replaced(
            batch.items, lambda value: shared[value.index] if type(value) is _Place else value
        )
    return batch()


def _replaced(items: list[Any], other: Callable[[Any], Any]) -> list[Any]:
    """The same calls with ``other`` of each of their arguments."""
    return [
        (function, tuple(map(other, args)), {key: other(value) for key, value in kwargs.items()})
        for function, args, kwargs in items
    ]


class _SharedArrays:
    """Arrays of at least ``least`` bytes go to the store once, and not with each call.

    As where joblib's own processes map them: while an array lives, what was seen first counts.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._known: dict[int, tuple[weakref.ref[Any], ObjectRef]] = {}

    def take_out(self, batch: Any) -> list[ObjectRef]:
        """Put places into a batch for its large arrays, and return those."""
        numpy = sys.modules.get("numpy")
        items = getattr(batch, "items", None)
        if numpy is None or items is None:
            return []
        refs: dict[ObjectRef, _Place] = {}

        def placed(value: Any) -> Any:
            if (
                not isinstance(value, numpy.ndarray) or value.nbytes < self._least
                or value.dtype.hasobject
            ):  # fmt: skip
                return value
            return refs.setdefault(self._ref(value), _Place(len(refs)))

        replaced = _replaced(items, placed)
        if refs:
            batch.items = replaced
        return list(refs)

    def _ref(self, array: Any) -> ObjectRef:
        key = id(array)
        known = self._known.get(key)
        if known is not None and known[0]() is array:
            return known[1]
        ref = put(array)
        self._known[key] = weakref.ref(array, lambda _gone: self._known.pop(key, None)), ref
        return ref


class _Batch:
    """The result of one batch, as joblib asks for it."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref
        self._future = ref.future()

    def get(self, timeout: float | None = None) -> Any:
        return self._future.result(timeout)


class NbrayBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Each batch of joblib's is a task; calls that are short become larger batches."""

    supports_retrieve_callback = True
    supports_return_generator = True
    default_n_jobs = -1

    def __init__(self, **options: Any) -> None:
        self._options = options.pop("ray_remote_args", None) or {}
        self._batches: set[_Batch] = set()
        self._shared: _SharedArrays | None = None
        super().__init__(**options)

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many batches run at once: ``n_jobs``, negative counted from the cluster's CPUs."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if not is_initialized():
            init()
        cpus = max(1, int(cluster_resources().get("CPU", 1)))
        return max(1, cpus + 1 + n_jobs) if n_jobs is not None and n_jobs < 0 else n_jobs or cpus

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, max_nbytes: int | None = None,
        mmap_mode: str | None = None, **_options: Any,
    ) -> int:  # fmt: skip
        """Called by joblib before the first batch."""
        self.parallel = parallel
        reads = max_nbytes is not None and mmap_mode == "r"  # who wants to write gets copies
        self._shared = _SharedArrays(max_nbytes or 1) if reads else None
        self._task = remote(_run).options(**self._options) if self._options else remote(_run)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Start a batch; ``callback`` hears of its end."""
        shared = self._shared.take_out(func) if self._shared is not None else []
        batch = _Batch(self._task.remote(func, *shared))
        self._batches.add(batch)

        def ended(future: Any) -> None:
            self._batches.discard(batch)
            if callback is not None:
                callback(future)

        batch._future.add_done_callback(ended)
        return batch

    apply_async = submit

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a batch that has ended; raises what its call raised, as it was there."""
        try:
            return out.result()
        except TaskError as error:
            if error.cause is None:
                raise
            raise error.cause from error

    def terminate(self) -> None:
        """Called by joblib when all is done."""
        self._shared = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the batches that have not ended."""
        for batch in list(self._batches):
            cancel(batch.ref)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


RayBackend = NbrayBackend  # its name in Ray, whose programs name it in isinstance
