"""Which exceptions a task is run again for."""

from __future__ import annotations

import logging

from nbray import cloudpickle
from nbray.core_worker.task_options import TaskOptions
from nbray.core_worker.values.serialization import deserialize
from nbray.exceptions import TaskError
from nbray.wire.messages import TaskDone

logger = logging.getLogger(__name__)


def is_retriable(done: TaskDone, options: TaskOptions) -> bool:
    """Whether a task that raised is to be run again, by its ``retry_exceptions``."""
    wanted = options.retry_exceptions
    if isinstance(wanted, bool):
        return wanted
    if done.raised:
        return _is_one_of(done.raised, wanted)
    value = done.values[-1] if done.values else None
    if value is None or value.inline is None:
        return False
    error = deserialize(value.inline, None)
    return isinstance(error, TaskError) and isinstance(error.cause, wanted)


def _is_one_of(pickled: bytes, classes: tuple[type[BaseException], ...]) -> bool:
    try:
        return issubclass(cloudpickle.loads(pickled), classes)
    except Exception as problem:  # it cannot be found here, or the user's code raised
        logger.info("The class of an exception cannot be read, so it is not retried: %s", problem)
        return False
