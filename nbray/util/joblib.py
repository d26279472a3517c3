"""joblib's work on the cluster: ``register_nbray()``, then ``parallel_backend("nbray")``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib import register_parallel_backend
from joblib.parallel import ParallelBackendBase

from nbray.calls.api import cancel, remote
from nbray.driver.cluster import cluster_resources
from nbray.driver.driver import init, is_initialized
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


def _run(batch: Callable[[], Any]) -> Any:
    return batch()


class _Batch:
    """The result of one batch, as joblib asks for it."""

    def __init__(self, ref: ObjectRef) -> None:
        self.ref = ref
        self._future = ref.future()

    def get(self, timeout: float | None = None) -> Any:
        return self._future.result(timeout)


class NbrayBackend(ParallelBackendBase):  # type: ignore[misc]
    """Each batch of joblib's is a task."""

    supports_retrieve_callback = True
    supports_return_generator = True
    default_n_jobs = -1

    def __init__(self, **options: Any) -> None:
        self._options = options.pop("ray_remote_args", None) or {}
        self._batches: set[_Batch] = set()
        super().__init__(**options)

    def effective_n_jobs(self, n_jobs: int) -> int:
        """How many batches run at once: ``n_jobs``, negative counted from the cluster's CPUs."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if not is_initialized():
            init()
        cpus = max(1, int(cluster_resources().get("CPU", 1)))
        return max(1, cpus + 1 + n_jobs) if n_jobs is not None and n_jobs < 0 else n_jobs or cpus

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_options: Any) -> int:
        """Called by joblib before the first batch."""
        self.parallel = parallel
        self._task = remote(_run).options(**self._options) if self._options else remote(_run)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Start a batch; ``callback`` hears of its end."""
        batch = _Batch(self._task.remote(func))
        self._batches.add(batch)

        def ended(future: Any) -> None:
            self._batches.discard(batch)
            if callback is not None:
                callback(future)

        batch._future.add_done_callback(ended)
        return batch

    apply_async = submit

    def retrieve_result_callback(self, out: Any) -> Any:
        """The result of a batch that has ended."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop the batches that have not ended."""
        for batch in list(self._batches):
            cancel(batch.ref)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)
