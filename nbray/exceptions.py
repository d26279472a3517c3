"""The exceptions users meet; names and relations follow Ray's."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from nbray.wire.causes import Cause


class NbrayError(Exception):
    """Base of all errors of nbray."""


RayError = NbrayError


class NbraySystemError(NbrayError):
    """The cluster cannot do what it was asked for, as when this program has not joined one."""


RaySystemError = NbraySystemError


class TaskError(NbrayError):
    """A task raised. What `get` raises is also an instance of the user's exception class.

    Attributes:
        function_name: the task that failed.
        traceback_str: the remote traceback; of a task whose argument or whose own `get` failed,
            that one's first.
        cause: the user's exception, when it could be sent back.
        pid: the worker it ran in.
        ip: where that worker listens.
        actor_repr: the actor's ``repr``, for a call of one.
        actor_id: its id, in hex.
        tasks: the ids of the tasks that it went through, in hex, that which raised first.
    """

    tasks: tuple[str, ...] = ()

    def __init__(
        self,
        function_name: str,
        traceback_str: str,
        cause: BaseException | None,
        pid: int | None = None,
        ip: str | None = None,
        actor_repr: str | None = None,
        actor_id: str | None = None,
    ) -> None:
        super().__init__(function_name, traceback_str, cause, pid, ip, actor_repr, actor_id)
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.pid = pid
        self.ip = ip
        self.actor_repr = actor_repr
        self.actor_id = actor_id

    def __str__(self) -> str:
        where = [f"pid={self.pid}", f"ip={self.ip}"]
        if self.actor_id:
            where += [f"actor_id={self.actor_id}", f"repr={self.actor_repr}"]
        return f"nbray::{self.function_name}() ({', '.join(where)})\n{self.traceback_str}"

    def as_instanceof_cause(self) -> BaseException:
        """This error as an instance of both TaskError and the cause's class."""
        cause = self.cause
        if cause is None or type(cause) in TaskError.__mro__:
            return self
        from nbray import causes  # which imports the pickler, and most programs see no error

        title = f"TaskError({type(cause).__name__})"
        error = causes.joined(_Joined, cause, title, lambda member: UserCodeException(repr(member)))
        if error is None:  # no class can have that one as its base
            return self
        error.__dict__["_task_error"] = self
        return error

    def alone(self) -> TaskError:
        """This error without the cause's class and attributes."""
        return self

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        from nbray import causes

        where = self.pid, self.ip, self.actor_repr, self.actor_id
        packed = causes.pack(self.cause, in_band=protocol < 5)
        return _read, (self.function_name, self.traceback_str, packed, self.tasks, *where)


def _read(
    function_name: str, text: str, packed: Any, tasks: tuple[str, ...], *where: Any
) -> TaskError:
    cause = None
    if packed is not None:
        from nbray import causes

        try:
            cause = causes.load(packed)
        except Exception as problem:  # the code of the user's class, or it is not to be had here
            text = f"{text.rstrip()}\nThe exception itself cannot be read here: {problem!r}\n"
    error = TaskError(function_name, text, cause, *where)
    error.tasks = tasks
    return error


class _Joined(TaskError):
    """Comes first among the bases of a class that is the cause's, too.

    What the cause's class does with its instances must not hinder anybody who only passes the
    error on, shows it, or asks whether there is one.
    """

    _task_error: TaskError

    def __init_subclass__(cls) -> None:
        """The cause's class is not asked, and does not hear of it."""

    def alone(self) -> TaskError:
        return self._task_error

    @property
    def cause(self) -> BaseException | None:  # type: ignore[override]
        return self._task_error.cause

    @property
    def function_name(self) -> str:  # type: ignore[override]
        return self._task_error.function_name

    @property
    def traceback_str(self) -> str:  # type: ignore[override]
        return self._task_error.traceback_str

    @property
    def tasks(self) -> tuple[str, ...]:  # type: ignore[override]
        return self._task_error.tasks

    def as_instanceof_cause(self) -> BaseException:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        error = self._task_error
        return getattr(error if name in error.__dict__ else error.cause, name)

    __getattribute__ = Exception.__getattribute__
    __setattr__ = Exception.__setattr__
    __delattr__ = Exception.__delattr__

    def __str__(self) -> str:
        return str(self._task_error)

    def __repr__(self) -> str:
        try:
            return super().__repr__()
        except Exception:  # the code of the user's class
            return object.__repr__(self)

    def __bool__(self) -> bool:
        return True

    def __reduce_ex__(self, _protocol: Any) -> tuple[Any, ...]:
        return _join, (self._task_error,)


def _join(error: TaskError) -> BaseException:
    return error.as_instanceof_cause()


RayTaskError = TaskError


class TaskCancelledError(NbrayError):
    """The task was cancelled.

    Attributes:
        task_id: of the task; None when it is not known.
        error_message: what happened.
    """

    def __init__(self, task_id: Any = None, error_message: str | None = None) -> None:
        super().__init__(task_id, error_message)
        self.task_id = task_id
        self.error_message = error_message

    def __str__(self) -> str:
        told = f"Task: {self.task_id} was cancelled. " if self.task_id is not None else ""
        return self.error_message or told

    @classmethod
    def of(cls, task_id: Any, name: str) -> TaskCancelledError:
        """The error of a task that was cancelled."""
        return cls(task_id, f"Task {name} was cancelled.")


class GetTimeoutError(NbrayError, TimeoutError):
    """`get` did not have all values in time."""


class ProcessDeath(NbrayError):
    """An error that may come from the end of a process, with what is known of that.

    Attributes:
        pid: of the process; None when none ended, or nobody can say.
        node_id: its node, in hex; empty when it is not known.
        signal_name: the signal that ended it, as in "SIGSEGV"; empty if it was none.
        exit_code: with what it ended by itself; None if it did not, or nobody can say.
        peak_memory: the most memory that it had, in bytes; 0 when it is not known.
        last_lines: what it wrote last to stderr.
    """

    pid: int | None = None
    node_id: str = ""
    signal_name: str = ""
    exit_code: int | None = None
    peak_memory: int = 0
    last_lines: str = ""

    def with_facts(self, cause: Cause | None) -> Self:
        """This error, with the facts of what caused it."""
        if cause is not None:
            self.pid, self.node_id = cause.pid or None, cause.node_id.hex()
            self.signal_name = signal.Signals(cause.signal).name if cause.signal else ""
            self.exit_code, self.peak_memory = cause.exit_status, cause.peak_bytes
            self.last_lines = cause.last_lines
        return self


class WorkerCrashedError(ProcessDeath):
    """The worker died while it ran the task, and no retry was left."""

    def __str__(self) -> str:
        return super().__str__() or "The worker died unexpectedly while executing this task."


class RuntimeEnvSetupError(NbrayError):
    """The runtime environment of a task or actor could not be set up; the text says why."""


class OutOfMemoryError(ProcessDeath):
    """The worker was ended while it ran the task, since the machine ran out of memory."""


DIED = "The actor died unexpectedly before finishing this task."


class ActorError(ProcessDeath):
    """Something is wrong with the actor.

    Attributes:
        actor_id: in hex; empty when it is not known.
        error_msg: what happened.
        actor_init_failed: whether its constructor raised.
        preempted: whether its node was taken away by whoever lent it.
    """

    def __init__(
        self,
        actor_id: str = "",
        error_msg: str = DIED,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ) -> None:
        super().__init__(actor_id, error_msg, actor_init_failed, preempted)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self.preempted = preempted

    def __str__(self) -> str:
        return self.error_msg


RayActorError = ActorError


class ActorDiedError(ActorError):
    """The actor is dead and does not come back."""


class ActorHandleNotFoundError(NbrayError, ValueError):
    """The handle is of an earlier session of this process: `shutdown` was called since."""


class ActorUnavailableError(ActorError):
    """The actor is not reachable now; it may come back.

    Programs that raise it themselves, as tests do, may give Ray's arguments: a text and the id.
    """

    def __init__(self, actor_id: str = "", error_msg: str | bytes | None = DIED, *more: bool):
        if not isinstance(error_msg, str):  # they are Ray's
            said, known = actor_id, None if error_msg is None else error_msg.hex()
            actor_id = known or ""
            error_msg = (
                f"The actor {known} is unavailable: {said}. The task may or may not have been "
                "executed on the actor."
            )
        super().__init__(actor_id, error_msg, *more)


class ObjectLostError(NbrayError):
    """No copy of the object is left."""


class ObjectReconstructionFailedError(ObjectLostError):
    """The object is lost, and what made it may not be run again."""


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The object is lost, and its task has used up its retries."""


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """The object is lost, and its task was forgotten to save memory."""


class OwnerDiedError(ObjectLostError):
    """The process that owned the object died, and the object with it."""


class ObjectStoreFullError(NbrayError):
    """The node's object store has no room."""


class LocalRayletDiedError(NbrayError):
    """The raylet of this node ended; nothing can be asked of the cluster from here."""

    def __str__(self) -> str:
        return super().__str__() or "The task's local raylet died; its log says why."


class OutOfDiskError(NbrayError):
    """The node's object store has no room, and neither has the disk it spills to."""


class PendingCallsLimitExceeded(NbrayError):
    """An actor has ``max_pending_calls`` calls of this process without a reply."""


class ExitActor(SystemExit):
    """Raised by `nbray.actor.exit_actor`: the actor's own end."""


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


class OufOfBandObjectRefSerializationException(NbrayError):
    """A program pickled an ObjectRef itself, and a variable forbids that; the name is Ray's."""


# Programs written for Ray catch these by name. Nothing raises them here, as each says.


class NodeDiedError(NbrayError):
    """What a dead node leads to is told by the errors of its tasks, actors and objects."""


class ObjectFreedError(ObjectLostError):
    """An object was freed by hand; here an object lives until its last ref goes."""


class ObjectFetchTimedOutError(ObjectLostError):
    """Fetching a copy took too long; here another copy is tried, then the lineage."""


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """An object went though a ref was left."""


class UnserializableException(NbrayError):
    """An exception could not be read; here it is a `TaskError` with its text."""


class UserCodeException(NbrayError):
    """Stands in an exception group for a member of a task that would end programs, not errors."""


class AsyncioActorExit(NbrayError):
    """How Ray ends an async actor; here `exit_actor` does so for all."""


class AuthenticationError(NbrayError):
    """The token was refused; here that is a ConnectionError with its cause."""


class CrossLanguageError(NbrayError):
    """A task in another language failed; here all are Python."""


class ObjectRefStreamEndOfStreamError(NbrayError):
    """A stream has ended; here that is StopIteration."""


class PlasmaObjectNotAvailable(NbrayError):
    """A value is not in the store of this node; here it is brought."""


class RayChannelError(NbraySystemError):
    """A channel of a compiled graph failed; there are none here."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel of a compiled graph was slow; there are none here."""


class RayCgraphCapacityExceeded(NbraySystemError):
    """A compiled graph had too much to do; there are none here."""


class RayDirectTransportError(NbrayError):
    """A tensor could not be sent past the object store; nothing is here."""


class RpcError(NbrayError):
    """A call between processes failed; here the error says what that means."""


class StreamingGeneratorReplayInconsistentError(NbrayError):
    """A stream that was made again had other items; here it ends where it ends."""
