"""Whom a worker meets in its life, for the template, which lives one before its first fork.

Of each page that a fork changes it gets a copy, at 2 to 5 us, and it changes pages by merely
running: objects count who holds them. But much of what a worker changes between its fork and its
first reply is what the interpreter does once, wherever that may be: it notes where each attribute
of a class was found. A template that has been a worker itself has done so for all of its forks,
which then change a fifth fewer pages.

Here are a raylet, which makes an actor of the worker and has it leave, and a caller. Both are
driven by a thread, which has ended when the first fork comes.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

from nbray import cloudpickle
from nbray.common.config import Config
from nbray.common.ids import JobID, TaskIDFactory
from nbray.common.session import Session
from nbray.wire import messages as m
from nbray.wire.connection import Connection
from nbray.wire.connections import Connections
from nbray.wire.reactor import Reactor
from nbray.wire.records import ActorOptions, ActorSpec, Address, JobConfig, TaskSpec

_HOST = "127.0.0.1"
_NODE = bytes(28)
_ARENA_BYTES = 1 << 20
_LONGEST_S = 10.0


class OtherSide:
    """A raylet and a caller for one worker, as a context: nothing of it is left behind.

    Attributes:
        order: what the worker is ordered to be, as a raylet orders its template.
    """

    def __init__(self, token: bytes, config: Config, session: Session) -> None:
        worker = os.urandom(28).hex()
        self._path = session.socket_path(f"r-{worker[:12]}")
        self.order = {
            "fork": worker, "log": self._path, "raylet": self._path, "host": _HOST, "env": "",
            "env_vars": {}, "working_dir": "", "sys_path": [],
        }  # fmt: skip
        self._address = Address(os.urandom(28), _NODE, "", _HOST, 0)
        self._job = JobConfig(JobID.from_int(0).binary(), "", self._address, [], "")
        self._reactor = Reactor()
        self._connections = Connections(self._reactor, token, config)
        self._arena = os.memfd_create("nbray-rehearsal", os.MFD_CLOEXEC)
        self._raylet: Connection | None = None
        self._worker: Address | None = None

    def __enter__(self) -> Self:
        os.ftruncate(self._arena, _ARENA_BYTES)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(self._path)
        sock.listen()
        self._connections.listen(sock, self._on_message, self._ended, self._ended)
        self._reactor.call_later(_LONGEST_S, self._have_it_leave)
        self._reactor.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._reactor.stop()
        os.close(self._arena)
        for left in (self._path, f"{self._path}.out", f"{self._path}.err"):
            with suppress(FileNotFoundError):
                os.unlink(left)

    def _on_message(self, connection: Connection, message: m.Message) -> None:
        match message:
            case m.RegisterWorker():
                self._raylet, self._worker = connection, message.address
                arena = f"/proc/self/fd/{self._arena}"
                connection.send(m.WorkerRegistered(_NODE, _HOST, arena, _ARENA_BYTES))
                connection.send(m.BecomeActor(self._actor(), self._job))
            case m.ActorCreated():
                self._call(message.actor_id)
            case m.TaskDone():
                self._have_it_leave()

    def _actor(self) -> ActorSpec:
        class Rehearsing:  # by value, as most actors of programs and notebooks are
            def __init__(self) -> None:
                self.calls = 0

            def call(self) -> int:
                self.calls += 1
                return self.calls

        pickled = cloudpickle.dumps(Rehearsing)
        actor_id = os.urandom(12) + self._job.job_id
        return ActorSpec(
            actor_id, self._job.job_id, "Rehearsing", pickled, b"", (), (), {},
            ActorOptions({}), self._address,
        )  # fmt: skip

    def _call(self, actor_id: bytes) -> None:
        assert self._worker is not None
        caller = self._connections.connect(
            self._worker.unix_path, "", 0, self._on_message, self._ended
        )
        caller.send(m.Hello(self._address, self._job))
        task_id = TaskIDFactory(self._job.job_id)()
        call = TaskSpec(
            task_id, self._job.job_id, b"", "Rehearsing.call", b"", actor_id=actor_id, method="call"
        )
        caller.send(m.PushTask(call))

    def _have_it_leave(self) -> None:
        if self._raylet is not None:
            self._raylet.send(m.ExitWorker(actor_ended=True))

    def _ended(self, connection: Connection) -> None:
        connection.close("it has ended")
