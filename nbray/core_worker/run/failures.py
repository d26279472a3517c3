"""A task of a notebook has failed: a picture of its frames goes to the notebook, within bounds."""

from __future__ import annotations

import logging
from collections import OrderedDict

import msgspec

from nbray.common.config import Config
from nbray.core_worker.run.asides import Asides
from nbray.core_worker.run.stops import Stops
from nbray.debugging import pictures, taking
from nbray.debugging.marks import HOLD
from nbray.debugging.talk import FAILED, Failed, encode
from nbray.exceptions import TaskCancelledError
from nbray.wire.records import TaskSpec

logger = logging.getLogger(__name__)

_CELLS = 100


class FailureTeller:
    """Takes pictures of the failures of this worker: of each cell the first ones."""

    def __init__(self, config: Config, asides: Asides, stops: Stops) -> None:
        self._limits = taking.Limits(config.failure_bytes, config.failure_value_bytes)
        self._most = config.failures_per_cell
        self._asides = asides
        self._stops = stops
        self._told: OrderedDict[int, int] = OrderedDict()

    def on_failure(self, spec: TaskSpec, error: BaseException) -> None:
        """A task of a notebook raised. Nothing that happens here changes what it raised."""
        if isinstance(error, TaskCancelledError):
            return
        try:
            told = self._told.pop(spec.origin, 0)
            self._told[spec.origin] = told + 1
            if len(self._told) > _CELLS:
                self._told.popitem(last=False)
            if told < self._most:
                self._tell(spec, pictures.encode(taking.take(error, self._limits)))
            if spec.origin & HOLD:
                self._stops.at_failure(error.__traceback__)
        except Exception:  # of whatever stands in the user's frames
            logger.exception("No picture of the failure of %s was taken", spec.name)

    def _tell(self, spec: TaskSpec, picture: bytes) -> None:
        """With the picture goes the task, to be run again; values of refs stay where they are."""
        bare = [msgspec.structs.replace(one, value=None) for one in spec.dependencies]
        task = msgspec.msgpack.encode(msgspec.structs.replace(spec, dependencies=bare))
        if len(task) > self._limits.total:
            task = b""
        self._asides.tell(FAILED, encode(Failed(picture, task)))
