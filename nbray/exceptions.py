"""The exceptions users meet; names and relations follow Ray's."""

from __future__ import annotations

from typing import Any


class NbrayError(Exception):
    """Base of all errors of nbray."""


RayError = NbrayError


class NbraySystemError(NbrayError):
    """The cluster cannot do what it was asked for, as when this program has not joined one."""


RaySystemError = NbraySystemError


class TaskError(NbrayError):
    """A task raised. What `get` raises is also an instance of the user's exception class.

    Attributes:
        cause: the user's exception, when it could be sent back.
        traceback_text: the remote traceback.
        function_name: the task that failed.
        pid: the worker it ran in.
    """

    def __init__(
        self, function_name: str, traceback_text: str, cause: BaseException | None, pid: int
    ) -> None:
        super().__init__(function_name, traceback_text, cause, pid)
        self.function_name = function_name
        self.traceback_text = traceback_text
        self.cause = cause
        self.pid = pid

    def __str__(self) -> str:
        return f"{self.function_name}() failed (pid={self.pid})\n{self.traceback_text}"

    def as_instanceof_cause(self) -> BaseException:
        """This error as an instance of both TaskError and the cause's class."""
        if self.cause is None:
            return self
        cause_class = type(self.cause)
        if issubclass(TaskError, cause_class):
            return self
        cause, outer = self.cause, self

        def adopt(instance: TaskError, *_args: Any) -> None:
            instance.function_name = outer.function_name
            instance.traceback_text = outer.traceback_text
            instance.cause = cause
            instance.pid = outer.pid
            instance.args = cause.args

        try:
            both = type(
                f"TaskError({cause_class.__name__})",
                (TaskError, cause_class),
                {
                    "__init__": adopt,
                    "__str__": TaskError.__str__,
                    "__getattr__": lambda _self, name: getattr(cause, name),
                    "__reduce__": lambda _self: (_both, outer.args),
                },
            )
            error: BaseException = both()
        except TypeError:  # the user's class cannot be a base
            return self
        error.__cause__ = cause
        return error


def _both(*args: Any) -> BaseException:
    return TaskError(*args).as_instanceof_cause()


RayTaskError = TaskError


class TaskCancelledError(NbrayError):
    """The task was cancelled."""


class GetTimeoutError(NbrayError, TimeoutError):
    """`get` did not have all values in time."""


class WorkerCrashedError(NbrayError):
    """The worker died while it ran the task, and no retry was left."""


class RuntimeEnvSetupError(NbrayError):
    """The runtime environment of a task or actor could not be set up; the text says why."""


class OutOfMemoryError(NbrayError):
    """The worker was ended while it ran the task, since the machine ran out of memory."""


class ActorError(NbrayError):
    """Something is wrong with the actor."""


RayActorError = ActorError


class ActorDiedError(ActorError):
    """The actor is dead and does not come back."""


class ActorUnavailableError(ActorError):
    """The actor is not reachable now; it may come back."""


class ObjectLostError(NbrayError):
    """No copy of the object is left."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The object is lost, and what made it may not be run again."""


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectLostError):
    """The object is lost, and its task has used up its retries."""


class ObjectReconstructionFailedLineageEvictedError(ObjectLostError):
    """The object is lost, and its task was forgotten to save memory."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object died, and the object with it."""


class ObjectStoreFullError(NbrayError):
    """The node's object store has no room."""


class LocalRayletDiedError(NbrayError):
    """The raylet of this node ended; nothing can be asked of the cluster from here."""


class OutOfDiskError(NbrayError):
    """The node's object store has no room, and neither has the disk it spills to."""


class PendingCallsLimitExceeded(NbrayError):
    """An actor has ``max_pending_calls`` calls of this process without a reply."""


class ExitActor(BaseException):
    """Raised by a method to end its actor."""


class ActorAlreadyExistsError(NbrayError, ValueError):
    """An actor of that name lives in the namespace."""


class TaskUnschedulableError(NbrayError):
    """No node may run the task, as when the one that it was bound to is dead."""

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The task is not schedulable: {self.error_message}"


class ActorUnschedulableError(NbrayError):
    """No node may run the actor, as when the one that it was bound to is dead."""

    def __init__(self, error_message: str) -> None:
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return f"The actor is not schedulable: {self.error_message}"


class TaskPlacementGroupRemoved(NbrayError):
    """The placement group of the task was removed."""

    def __str__(self) -> str:
        return "The placement group corresponding to this task has been removed."


class ActorPlacementGroupRemoved(NbrayError):
    """The placement group of the actor was removed."""

    def __str__(self) -> str:
        return "The placement group corresponding to this Actor has been removed."
