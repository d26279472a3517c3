"""How many threads the numerical libraries of a worker may start: as many as it has CPUs.

Ray sets OMP_NUM_THREADS for that. A worker is a fork of a process that has loaded NumPy, whose
library has read the variables by then, so it is told by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, MutableMapping

from nbray.common.resources import UNIT

logger = logging.getLogger(__name__)

_OMP = "OMP_NUM_THREADS"
_VARIABLES = (_OMP, "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_OWN = "NBRAY_OWN_THREAD_VARIABLES"


def own_thread_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What the template of workers gets: one thread, where its user has not said anything."""
    own = [name for name in _VARIABLES if name not in environment]
    if _OMP in environment:  # which the other libraries follow, too
        own = []
    return {**dict.fromkeys(own, "1"), _OWN: ",".join(own)}


def threads_for(resources: Mapping[str, int]) -> int:
    """The CPUs of a task or actor, in units, as a number of threads; at least one."""
    return max(1, resources.get("CPU", 0) // UNIT)


class ThreadCount:
    """The number of threads in a worker, in so far as its user has not set it.

    Args:
        environment: of the process, as the template has it.
        set_by_user: the variables that the runtime environment sets.
    """

    def __init__(self, environment: MutableMapping[str, str], set_by_user: Collection[str]) -> None:
        self.count = 1
        self._environment = environment
        own = environment.pop(_OWN, "").split(",")
        self._own = [name for name in own if name and name not in set_by_user]
        if _OMP in set_by_user:
            for name in self._own:
                environment.pop(name, None)
            self._own.clear()
            if environment[_OMP].isdigit():
                _limit(int(environment[_OMP]))

    def use(self, count: int) -> None:
        """What runs from now on may use so many."""
        self.count = count
        self._environment.update(dict.fromkeys(self._own, str(count)))
        if len(self._own) == len(_VARIABLES):  # else its user decides
            _limit(count)


def _limit(count: int) -> None:
    """Tell the libraries that are loaded."""
    try:
        from threadpoolctl import threadpool_limits

        threadpool_limits(limits=count)
    except Exception as error:  # not installed in an interpreter of the user's, or a new library
        logger.info("Loaded libraries keep their number of threads: %s", error)
