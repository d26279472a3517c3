"""The values of a task as its worker makes them: one, several, or those that a generator yields."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Generator
from typing import Any

from nbray.common.config import Config
from nbray.common.ids import return_id
from nbray.core_worker.own.table import OwnershipTable
from nbray.core_worker.run.tracebacks import user_traceback
from nbray.core_worker.values.serialization import SIMPLE, Serialized, flat, serialize
from nbray.core_worker.values.stored import StoredValues
from nbray.exceptions import ObjectStoreFullError, OutOfDiskError
from nbray.wire import messages as m
from nbray.wire.records import Address, TaskSpec, Value, ids_in

_SIZED = frozenset({str, bytes})
_SMALL = 4096


class Making:
    """Where the values of tasks are made.

    Up to ``max_inline_bytes`` of a task's go into its reply, of one value ``max_value_bytes``.
    """

    def __init__(self, config: Config, table: OwnershipTable, stored: StoredValues) -> None:
        self.max_inline_bytes = config.max_inline_arguments_bytes
        self.max_value_bytes = config.max_inline_bytes
        self.note = table.note
        self._stored = stored

    def store(
        self, object_id: bytes, packed: Serialized, owner: Address, inline: bool = True,
        first: bool = False,
    ) -> Value:  # fmt: skip
        """See `StoredValues.store`."""
        return self._stored.store(object_id, packed, owner, inline, first)

    def drop(self, spec: TaskSpec, values: list[Value], begin: int = 0) -> None:
        """Give back what these values of a task take; the first of them is its ``begin``-th."""
        for index, value in enumerate(values, begin):
            self.note(ids_in(value.contained), -1)
            if value.stored is not None:
                self._stored.discard(return_id(spec.task_id, index))


class ReturnedValues:
    """Makes one task's values; those that are made stand in its reply when the task raises.

    Attributes:
        yielded: how many of them its generator yielded, which stay when it raises afterwards.
    """

    __slots__ = ("_done", "_making", "_owner", "_room", "_spec", "yielded")

    def __init__(self, making: Making, owner: Address, spec: TaskSpec, done: m.TaskDone) -> None:
        self._making = making
        self._owner = owner
        self._spec = spec
        self._done = done
        self._room = making.max_inline_bytes
        self.yielded = 0

    def make(self, result: Any) -> None:
        """The values of a task whose function returned ``result``.

        Raises:
            ValueError: they are fewer, or more, than the task is to have.
        """
        wanted = self._spec.num_returns
        if wanted == 1 and type(result) in SIMPLE:
            self._add(result)
        elif wanted == 0:
            return
        elif wanted < 0 or (wanted == 1 and not inspect.isgenerator(result)):
            self._add(result)
        elif inspect.isgenerator(result):
            self._take(result)
        else:
            results = list(result)
            if len(results) != wanted:
                raise self._wrong(len(results))
            for item in results:
                self._add(item)

    async def make_async(self, result: Any) -> None:
        """Like `make`, of an async generator, too."""
        if not inspect.isasyncgen(result) or self._spec.num_returns <= 0:
            self.make(result)
            return
        try:
            async for item in result:
                if self._has_all():
                    self._tell_of_more()
                    break
                self._add_yielded(item)
        except Exception as error:  # the user's code
            if not self._has_all():
                raise
            self._tell_of_error(error)
        await result.aclose()
        if not self._has_all():
            raise self._wrong(self.yielded)

    def _take(self, generator: Generator[Any, Any, Any]) -> None:
        for item in generator:
            self._add_yielded(item)
            if self._has_all():
                break
        else:
            raise self._wrong(self.yielded)
        try:
            next(generator)  # what stands behind the last `yield`
        except StopIteration:
            return
        except Exception as error:  # the user's code
            self._tell_of_error(error)
            return
        self._tell_of_more()
        generator.close()

    def _has_all(self) -> bool:
        return self.yielded == self._spec.num_returns

    def _add_yielded(self, item: Any) -> None:
        self._add(item)
        self.yielded += 1

    def _add(self, item: Any) -> None:
        kind = type(item)
        if kind in SIMPLE and (kind not in _SIZED or len(item) <= _SMALL):
            data = flat(item)
            size = len(data)
            if size <= self._room and size <= self._making.max_value_bytes:
                self._room -= size
                self._done.values.append(Value(data))
                return
        making, index = self._making, len(self._done.values)
        packed = serialize(item)
        self._room -= packed.size
        object_id = return_id(self._spec.task_id, index)
        try:
            value = making.store(
                object_id, packed, self._owner, self._room >= 0, self._spec.attempt == 0
            )
        except (ObjectStoreFullError, OutOfDiskError) as error:
            text = f"{error}\nIt is return value {index + 1} of {self._spec.name}:"
            raise type(error)(f"{text} {object_id.hex()}") from None
        # Held until the receiver has registered them: `HandoverDone` takes this back.
        if packed.contained:
            making.note(ids_in(packed.contained), 1)
        self._done.values.append(value)

    def _wrong(self, count: int) -> ValueError:
        return ValueError(
            f"Task returned {count} objects, but num_returns={self._spec.num_returns}."
        )

    def _tell_of_more(self) -> None:
        spec = self._spec
        print(
            f"{spec.name} yields more than num_returns={spec.num_returns} values; the rest is "
            "left out.",
            file=sys.stderr,
        )

    def _tell_of_error(self, error: Exception) -> None:
        spec = self._spec
        print(
            f"{user_traceback(error)}{spec.name} raised this after all of its "
            f"num_returns={spec.num_returns} values, which it keeps.",
            file=sys.stderr,
        )
