"""Runs one task or call: its function, its arguments, its values or its error.

Where it runs (the main thread, a pool, an event loop) is decided by `executor` and `actor_host`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType, FunctionType, MethodType
from typing import Any

from nbray import causes as causes  # else `TaskError` imports it where no file may be left
from nbray import cloudpickle
from nbray.common.ids import TaskID, return_id
from nbray.common.text import as_name
from nbray.core_worker.context import TaskContext
from nbray.core_worker.identity import Identity
from nbray.core_worker.own.errors import error_value
from nbray.core_worker.run.arriving import Arriving
from nbray.core_worker.run.functions import Functions
from nbray.core_worker.run.returned_values import Making, ReturnedValues
from nbray.core_worker.run.scope import TaskScope
from nbray.core_worker.run.stream_writer import StreamWriters
from nbray.core_worker.run.tracebacks import user_traceback
from nbray.core_worker.tell.task_events import TaskEventLog
from nbray.core_worker.values.arguments import ArgumentsLost, unpack
from nbray.core_worker.values.generators import DynamicObjectRefGenerator
from nbray.core_worker.values.reading import Values
from nbray.core_worker.values.serialization import Serialized, rebuilding, serialize
from nbray.exceptions import ExitActor, NbraySystemError, TaskCancelledError, TaskError
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.reactor import Reactor
from nbray.wire.records import DYNAMIC, STREAMING, Address, TaskSpec, Value, ids_in

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent.parent
_TORN = (
    str(_PACKAGE), str(_PACKAGE.parent / "object_store"), str(_PACKAGE.parent / "wire"),
    str(_PACKAGE.parent / "object_ref.py"),
)  # fmt: skip
_WAITS = {Reactor.wait.__code__, Reactor.try_turn.__code__}
_BUILT_IN = frozenset(("__ray_ready__", "__ray_terminate__", "__ray_call__"))
Arguments = tuple[list[Any], dict[str, Any]]


class TaskRunner:
    """What this worker can run: functions by id, and the methods of its actor.

    Attributes:
        waiting_functions: those of tasks that this worker has and that have not begun.
        scope: enters and leaves them.
        on_failure: hears of tasks of a notebook that raised.
    """

    def __init__(
        self, me: Identity, values: Values, making: Making, writers: StreamWriters,
        scope: TaskScope, events: TaskEventLog, arriving: Arriving,
    ) -> None:  # fmt: skip
        self._arriving = arriving
        self._me = me
        self._values = values
        self._making = making
        self._writers = writers
        self.scope = scope
        self._events = events
        self.functions = Functions()
        self.waiting_functions: Callable[[], Iterable[bytes]] = lambda: ()
        self.on_failure: Callable[[TaskSpec, BaseException], None] = lambda _spec, _error: None
        self.actor: Any = None

    def run(self, owner: Connection, spec: TaskSpec) -> m.TaskDone:
        """Run it in this thread.

        Raises:
            SystemExit: the user's code ends this process.
            ArgumentsLost: it was not begun, since some have to be made again; not of an actor.
        """
        started = time.monotonic()
        done = m.TaskDone(spec.task_id, [], 0.0)
        token = self.scope.enter(spec)
        arguments: Arguments | None = None
        made = ReturnedValues(self._making, owner.state, spec, done)
        try:
            arguments = unpack(self._values, spec, may_wait=bool(spec.actor_id))
            self._call(owner, spec, arguments, done, made)
        except (SystemExit, ArgumentsLost):
            raise
        except BaseException as error:
            self._fail(owner, spec, done, error, made, arguments is not None)
        finally:
            self.scope.leave(token)
            if spec.num_returns < 0:
                self._writers.end(spec)
        done.seconds = time.monotonic() - started
        return done

    def _call(
        self, owner: Connection, spec: TaskSpec, arguments: Arguments, done: m.TaskDone,
        made: ReturnedValues,
    ) -> None:  # fmt: skip
        """The part of a task that an interrupt may end, with `unpack`: see `is_interruptible`."""
        args, kwargs = arguments
        result = self.function(spec)(*args, **kwargs)
        args.clear()
        kwargs.clear()
        if spec.num_returns < 0:
            for item in self._iterator(spec, result):
                self._writers.wait_for_reader(owner, spec, done.items)
                self._writers.send(owner, spec, done.items, serialize(item))
                done.items += 1
            result = self._collected(owner, spec, done.items)
        made.make(result)

    def is_interruptible(self, frame: FrameType | None) -> bool:
        """Whether an exception that a signal raises there ends the task, and harms nothing else.

        It would tear nbray's own code: there, it has to wait a moment. The waits of the reactor
        run handlers when nothing can be torn.
        """
        if frame is None:
            return False
        code = frame.f_code
        if code.co_filename.startswith(_TORN) and code not in _TASK and code not in _WAITS:
            return False
        part: FrameType | None = frame
        while part is not None:
            if part.f_code in _TASK:
                return True
            part = part.f_back
        return False

    async def run_async(self, owner: Connection, spec: TaskSpec) -> m.TaskDone:
        """Run it as a coroutine of this thread's event loop; raises like `run`."""
        started = time.monotonic()
        done = m.TaskDone(spec.task_id, [], 0.0)
        token = self.scope.enter(spec)
        unpacked = False
        made = ReturnedValues(self._making, owner.state, spec, done)
        try:
            dependencies = spec.dependencies
            arrived = await self._arriving.all_of(dependencies) if dependencies else None
            args, kwargs = unpack(self._values, spec, arrived=arrived)
            unpacked = True
            result = self.function(spec)(*args, **kwargs)
            if inspect.iscoroutine(result) or isinstance(result, asyncio.Future):
                result = await result  # a ref can be awaited, too, and is a value
            if spec.num_returns < 0:
                await self._stream_async(owner, spec, result, done)
                result = self._collected(owner, spec, done.items)
            if inspect.isasyncgen(result):
                await made.make_async(result)
            else:
                made.make(result)
        except SystemExit:
            raise
        except BaseException as error:
            self._fail(owner, spec, done, error, made, unpacked)
            done.retry = not isinstance(error, asyncio.CancelledError)
        finally:
            self.scope.leave(token)
            if spec.num_returns < 0:
                self._writers.end(spec)
        coroutine = asyncio.current_task()
        if coroutine is not None and coroutine.cancelling():  # whatever it made of that
            self._drop_values(spec, done)
            done.retry = False
            done.values = self.errors(spec, asyncio.CancelledError(), unpacked)
        done.seconds = time.monotonic() - started
        return done

    async def _stream_async(
        self, owner: Connection, spec: TaskSpec, result: Any, done: m.TaskDone
    ) -> None:
        async def send(item: Any) -> None:
            await self._writers.wait_in_loop(owner, spec, done.items)
            self._writers.send(owner, spec, done.items, serialize(item))
            done.items += 1

        if inspect.isasyncgen(result):
            async for item in result:
                await send(item)
        else:
            for item in self._iterator(spec, result):
                await send(item)

    def _iterator(self, spec: TaskSpec, result: Any) -> Any:
        if not inspect.isgenerator(result) and not hasattr(result, "__next__"):
            raise TypeError(
                f"{spec.name} has num_returns='streaming' or 'dynamic', so it must return a "
                f"generator, not {type(result).__name__}."
            )
        return result

    def _collected(self, owner: Connection, spec: TaskSpec, items: int) -> Any:
        """The task's own value after its items: none, or with "dynamic" the refs of all."""
        if spec.num_returns == STREAMING:
            return None
        return DynamicObjectRefGenerator(
            self._values.borrowed_ref(return_id(spec.task_id, index + 1), owner.state)
            for index in range(items)
        )

    def function(self, spec: TaskSpec | TaskContext) -> Callable[..., Any]:
        """What a task or call runs."""
        if not spec.actor_id:
            return self.functions.get(spec.function_id, self.waiting_functions)
        method = spec.method
        if method in _BUILT_IN:
            if method == "__ray_ready__":
                return lambda: True
            if method == "__ray_terminate__":
                return _leave
            return lambda function, *args, **kwargs: function(self.actor, *args, **kwargs)
        found = type(self.actor).__dict__.get(method)
        if type(found) is FunctionType:  # as most
            return MethodType(found, self.actor)
        return self._bound(method)

    def _bound(self, name: str) -> Callable[..., Any]:
        """A method of the actor, of its class's: an attribute of that name hides none."""
        actor_class = type(self.actor)
        for base in actor_class.__mro__:
            if name in base.__dict__:
                found = base.__dict__[name]
                bind = getattr(type(found), "__get__", None)
                method: Callable[..., Any] = found
                return method if bind is None else bind(found, self.actor, actor_class)
        inherited: Callable[..., Any] = getattr(self.actor, name)
        return inherited

    def _fail(
        self, owner: Connection, spec: TaskSpec, done: m.TaskDone, error: BaseException,
        made: ReturnedValues, unpacked: bool,
    ) -> None:  # fmt: skip
        """The task raised; whoever waits for it hears that, whatever hinders the telling."""
        try:
            self._tell_failure(owner, spec, done, error, made, unpacked)
        except Exception as problem:  # as where the task has left no descriptor, or no memory
            logger.exception("What %s has raised cannot be told.", spec.name)
            text = f"{spec.name} raised {type(error).__name__}, which cannot be told: {problem!r}"
            done.retry = True
            done.values = [error_value(NbraySystemError(text))] if spec.return_count() else []

    def _tell_failure(
        self, owner: Connection, spec: TaskSpec, done: m.TaskDone, error: BaseException,
        made: ReturnedValues, unpacked: bool,
    ) -> None:  # fmt: skip
        """What it yielded before stays, other values are given back."""
        is_error = isinstance(error, Exception)
        if spec.origin and is_error and unpacked:
            self.on_failure(spec, error)
        kept = made.yielded if is_error else 0
        self._making.drop(spec, done.values[kept:], kept)
        del done.values[kept:]
        if is_error and spec.num_returns == DYNAMIC and unpacked:
            # The error is the last of the items.
            made.make(self._collected(owner, spec, done.items + 1))
            kept = done.items + 1
        done.retry = True
        done.values += self.errors(spec, error, unpacked, owner.state, kept)
        if done.values and done.values[-1].stored is not None:
            done.raised = _pickled_class(_root_cause(spec, error))
        elif is_error and spec.num_returns == STREAMING and unpacked:
            # The error is the last item, as in Ray; the task's own value says that it has ended.
            # One that is stored is the task's own, and its reader is told of it by both.
            made.make(None)
            done.values.reverse()

    def _drop_values(self, spec: TaskSpec, done: m.TaskDone) -> None:
        """Nobody will get what was made: give back its room, and what is held for it."""
        self._making.drop(spec, done.values)
        done.values = []

    def cancelled(self, spec: TaskSpec) -> m.TaskDone:
        """The reply of a task that was cancelled."""
        return self.refused(spec, TaskCancelledError.of(TaskID(spec.task_id), spec.name))

    def refused(self, spec: TaskSpec, error: Exception) -> m.TaskDone:
        """The reply of a task that is not run."""
        return m.TaskDone(spec.task_id, self.errors(spec, error), 0.0)

    def end_cancelled(self, spec: TaskSpec, done: m.TaskDone) -> None:
        """A method went on although it was cancelled: its value is lost, its error not."""
        if not done.retry:
            self._drop_values(spec, done)
            done.values = self.cancelled(spec).values
        done.retry = False

    def errors(
        self,
        spec: TaskSpec,
        error: BaseException,
        unpacked: bool = True,
        owner: Address | None = None,
        index: int = 0,
    ) -> list[Value]:
        """What the task gives when it raised: one error, for all of its values.

        ``unpacked``: after its arguments were there. ``owner``: of its values, who is to have
        the exception also when it is large. ``index``: of the first object that has it.
        """
        wrapped: BaseException
        cause: BaseException | None = error
        tasks: tuple[str, ...] = ()
        if type(error) is TaskCancelledError:
            wrapped, text = error, str(error)
        else:
            if unpacked:
                text = user_traceback(error)
            else:
                why = str(error) if isinstance(error, TaskError) else user_traceback(error)
                text = f"{_NO_ARGUMENTS}\n{why}"
            cause = _root_cause(spec, error)
            if type(cause) is TaskCancelledError and not isinstance(error, TaskError):
                text = f"{text.rstrip()}\n\n{_DIRECT_CAUSE}\n\n{_full_name(cause)}: {cause}\n"
            tasks = error.tasks[:_MOST_TASKS] if isinstance(error, TaskError) else ()
            wrapped = self.task_error(spec, text, cause, tasks)
        try:
            with rebuilding(self._values.borrowed_ref):  # it is read once, to see whether it can be
                packed = serialize(wrapped)
            stored = self._stored_error(spec, packed, owner, index)
            value = stored or Value(packed.to_bytes(), None, True, packed.contained)
        except Exception as problem:
            logger.info("The exception of %s cannot be sent; its text is: %s", spec.name, problem)
            data = serialize(self.task_error(spec, text, None, tasks)).to_bytes()
            value = Value(data, None, True)
        told = cause if isinstance(cause, TaskCancelledError) else error
        self._events.raised(spec.task_id, told, text)
        if not spec.return_count():
            return []
        # Held until the receiver has registered them, as those of other values.
        self._making.note(ids_in(value.contained), 1)
        return [value]

    def _stored_error(
        self, spec: TaskSpec, packed: Serialized, owner: Address | None, index: int
    ) -> Value | None:
        """An exception that is too large for a message, in the arena; None for a small one.

        Raises:
            ValueError: nobody is to have it.
        """
        if packed.size <= self._making.max_inline_bytes:
            return None
        if owner is None or not spec.return_count():
            raise ValueError(f"it has {packed.size} bytes")
        value = self._making.store(return_id(spec.task_id, index), packed, owner)
        return Value(None, value.stored, True, packed.contained)

    def task_error(
        self, spec: TaskSpec, text: str, cause: BaseException | None, before: tuple[str, ...] = ()
    ) -> TaskError:
        """The error of a task that ran, or was to run, here; ``before``: the tasks it came from."""
        where = os.getpid(), self._me.address.host
        if not spec.actor_id:
            error = TaskError(spec.name, text, cause, *where)
        else:
            shown = self.actor_repr(spec.name.rpartition(".")[0])
            error = TaskError(spec.name, text, cause, *where, shown, spec.actor_id.hex())
        error.tasks = (*before, spec.task_id.hex())
        return error

    def actor_repr(self, class_name: str) -> str:
        """How the actor shows itself, by its own ``__repr__`` if that does not fail."""
        if self.actor is None:
            return class_name
        try:
            return as_name(repr(self.actor))
        except Exception as error:
            return as_name(f"<{class_name}, whose __repr__ raised {_repr(error)}>")


def _repr(error: Exception) -> str:
    try:
        return repr(error)
    except Exception:  # the code of the user's class
        return type(error).__name__


_TASK = {unpack.__code__, TaskRunner._call.__code__}
_DIRECT_CAUSE = "The above exception was the direct cause of the following exception:"
_MOST_TASKS = 50
_NO_ARGUMENTS = "  At least one of the input arguments for this task could not be computed:"


def _root_cause(spec: TaskSpec, error: BaseException) -> BaseException | None:
    """What the user's code raised first: an argument's task or one that this one waited for."""
    if isinstance(error, TaskError):
        return error.cause
    if isinstance(error, KeyboardInterrupt | asyncio.CancelledError):
        # It must not look like one of whoever gets it.
        return TaskCancelledError.of(TaskID(spec.task_id), spec.name)
    return error


def _full_name(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}"


def _pickled_class(error: BaseException | None) -> bytes:
    """The class of an exception, for the owner that asks whether to run the task again."""
    try:
        return cloudpickle.dumps(type(error))
    except Exception as problem:  # the code of the user's class
        logger.info("The class %s cannot be sent: %s", type(error), problem)
        return b""


def _leave() -> None:
    raise ExitActor
