"""``python -m nbray.core_worker.run.template``: a process whose forks are the node's workers.

It has the imports done and one thread, so that a fork is quick and inherits no lock. It is
the parent of the workers, and so hears how each of them ended.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from nbray.common.config import Config
from nbray.common.giving_back import settle
from nbray.common.json_lines import JsonLines
from nbray.common.pids import kill_sessions, start_time
from nbray.common.process import leave
from nbray.common.session import Session
from nbray.common.sparing_log import SparingLog
from nbray.core_worker.core import CoreWorker
from nbray.core_worker.current import set_core
from nbray.core_worker.run import main_module
from nbray.core_worker.run.actor_exit import flush_streams
from nbray.core_worker.run.actor_host import ActorHost, Host
from nbray.core_worker.run.arriving import Arriving
from nbray.core_worker.run.asides import Asides
from nbray.core_worker.run.executor import Executor
from nbray.core_worker.run.failures import FailureTeller
from nbray.core_worker.run.last_replies import before_exit
from nbray.core_worker.run.output import (
    WorkerOutput,
    capture_output,
    release_output,
    set_up_streams,
)
from nbray.core_worker.run.profiles import TaskProfiles
from nbray.core_worker.run.rehearsal import OtherSide
from nbray.core_worker.run.replies import Replies
from nbray.core_worker.run.returned_values import Making
from nbray.core_worker.run.run_counts import RunCounts
from nbray.core_worker.run.scope import TaskScope
from nbray.core_worker.run.stops import Stops
from nbray.core_worker.run.stops import install as install_breakpoints
from nbray.core_worker.run.stream_writer import StreamWriters
from nbray.core_worker.run.surroundings import Surroundings
from nbray.core_worker.run.task_runner import TaskRunner
from nbray.core_worker.runtime_envs import enter_variables
from nbray.wire import messages as m
from nbray.wire.records import ActorSpec
from nbray.wire.tls import Tls
from nbray.wire.waiting import forget_handlers

logger = logging.getLogger(__name__)
_shortages = SparingLog(logger)

_SWEEP_S = 0.1
_FORKED_AT_ONCE = 8
_OF_PROCESS = ("stdout", "stderr", "__stdout__", "__stderr__", "breakpointhook")


class _Common(NamedTuple):
    """What all workers have in common, read once."""

    session: Session
    token: bytes
    config: Config
    tls: Tls | None


class _Parts(NamedTuple):
    """What a worker is made of."""

    core: CoreWorker
    executor: Executor
    runner: TaskRunner
    surroundings: Surroundings


class _Template:
    """The parent of the workers: forks them as it is ordered, and tells how each of them ended."""

    def __init__(self, common: _Common, control: socket.socket) -> None:
        self._common = common
        self._control = JsonLines(control)
        self._woken, self._wake = socket.socketpair()
        self._workers: dict[int, str] = {}
        self._started: dict[int, int] = {}
        self._swept = 0.0
        self._some_ended = False

    def serve(self) -> None:
        """Fork and reap until the raylet closes the control socket; no worker outlives that."""
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        set_up_streams()
        _rehearse(self._common)
        self._parts = _build(self._common)
        settle()
        gc.collect()
        gc.freeze()
        gc.enable()  # it is off in a fork of what the head begins with
        control = self._control.socket
        try:
            control.sendall(b'{"ready": true}\n')
        except (
            ConnectionError
        ):  # the raylet has left meanwhile, and takes it that nothing was forked
            return
        while True:
            writers = [control] if self._control.is_waiting else []
            wait = max(0.0, self._swept + _SWEEP_S - time.monotonic()) if self._some_ended else None
            readable, _, _ = select.select([control, self._woken], writers, [], wait)
            if self._woken in readable:
                self._woken.recv(4096)
                self._some_ended = True
            if self._some_ended and time.monotonic() >= self._swept + _SWEEP_S:
                self._reap()
            self._control.flush()
            if control in readable:
                orders = self._control.receive()
                if orders is None:
                    self._end_workers()
                    leave()
                for first in range(0, len(orders), _FORKED_AT_ONCE):
                    self._fork_all(orders[first : first + _FORKED_AT_ONCE])

    def _fork_all(self, orders: list[dict[str, Any]]) -> None:
        """Fork for some orders, then tell of all: this process changes pages by telling.

        Each page that it changes between two forks is copied for it.
        """
        forked: list[tuple[str, int]] = []
        for order in orders:
            try:
                pid = os.fork()
            except OSError as error:
                refusal = {"refused": order["fork"], "error": f"fork: {error.strerror}"}
                self._control.send(refusal)
                continue
            if pid == 0:
                signal.set_wakeup_fd(-1)
                for sock in (self._control.socket, self._woken, self._wake):
                    sock.close()
                _become_worker(self._common, self._parts, order)
            forked.append((order["fork"], pid))
        for name, pid in forked:
            self._workers[pid] = name
            try:
                started = start_time(pid)
            except OSError as error:  # no descriptor is left: who wants to know looks itself
                _shortages.warning("When worker pid %d began is not known: %s", pid, error)
                started = 0
            self._started[pid] = started
            self._control.send({"forked": name, "pid": pid, "started": started})

    def _reap(self) -> None:
        """Tell of the workers that have ended, and end what they leave in their sessions.

        Until a worker is reaped, nothing else can have its pid or its session's id. When many end,
        the processes of the machine are looked through for all of them together.
        """
        self._some_ended = False
        look = os.WEXITED | os.WNOHANG | os.WNOWAIT
        ended = [pid for pid in self._workers if os.waitid(os.P_PID, pid, look) is not None]
        try:
            self._kill_sessions(ended)
        except OSError as error:  # no descriptor is left: they are told of as soon as there is one
            _shortages.warning("The ends of %d workers are not told yet: %s", len(ended), error)
            self._some_ended, self._swept = True, time.monotonic()
            return
        for pid in ended:
            del self._started[pid]
            _, status, usage = os.wait4(pid, 0)
            self._control.send(
                {"exited": self._workers.pop(pid), "pid": pid, "status": status,
                 "max_rss_bytes": usage.ru_maxrss * 1024},
            )  # fmt: skip
        if ended:
            self._swept = time.monotonic()

    def _end_workers(self) -> None:
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)  # also one that has no session of its own yet
        try:
            self._kill_sessions(self._workers)
        except OSError as error:  # no descriptor is left, and nobody waits for one
            logger.warning("What the workers have started is not ended: %s", error)

    def _kill_sessions(self, leaders: Iterable[int]) -> None:
        """End what children have started, which are not reaped; raises OSError."""
        kill_sessions({pid: self._started[pid] or start_time(pid) for pid in leaders})


def _rehearse(common: _Common) -> None:
    """Be a worker once, from its registration until it leaves; see `rehearsal`.

    What belongs to the whole process is put back. A rehearsal that fails costs the forks time.
    """
    interrupt = signal.getsignal(signal.SIGINT)
    sys_before = {name: getattr(sys, name) for name in _OF_PROCESS}
    main, environ, path = sys.modules["__main__"], os.environ.copy(), sys.path.copy()
    handlers = [(one, one.stream) for one in logging.getLogger("nbray").handlers
                if isinstance(one, logging.StreamHandler)]  # fmt: skip
    parts = _build(common)
    core = parts.core
    core.edge.on_raylet_lost = lambda: None
    try:
        with OtherSide(common.token, common.config, common.session) as other:
            try:
                output = _begin(common, parts, other.order)
                parts.executor.run()
                output.finish()
            finally:
                core.stop()
    except Exception:
        logger.exception("The rehearsal failed; workers start without what it would have warmed")
    finally:
        release_output()
        set_core(None)
        sys.modules["__main__"], sys.path[:] = main, path
        for name, value in sys_before.items():
            setattr(sys, name, value)
        for handler, stream in handlers:
            handler.setStream(stream)
        signal.signal(signal.SIGINT, interrupt)
        forget_handlers()
        for name in os.environ.keys() - environ.keys():
            del os.environ[name]
        os.environ.update(environ)


def _become_worker(common: _Common, parts: _Parts, order: dict[str, Any]) -> None:
    """The child's whole life; it never returns. ``parts`` are those that its parent has built."""
    status = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for descriptor, suffix in ((1, ".out"), (2, ".err")):
            log = os.open(order["log"] + suffix, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, descriptor)
            os.close(log)
        if "numpy.random" in sys.modules:  # else it draws a seed of its own when it is imported
            numpy.random.seed(int.from_bytes(os.urandom(4), "little"))
        if order["env_vars"]:
            enter_variables(order["env_vars"])
            config = Config.from_env()
            if config != common.config:
                parts.core.reactor.abandon()
                parts = _build(common._replace(config=config))
        status = _run_worker(common, parts, order)
    except BaseException:
        logger.exception("The worker failed")
    finally:
        flush_streams()
        os._exit(status)


def _begin(common: _Common, parts: _Parts, order: dict[str, Any]) -> WorkerOutput:
    """Register at the raylet, and be ready for what it says."""
    worker_id = bytes.fromhex(order["fork"])
    core, _executor, runner, surroundings = parts
    core.begin(worker_id, common.session.socket_path(f"w-{worker_id.hex()[:12]}"))
    core.peers.start(order["raylet"], order["host"])
    core.runtime_envs.enter(order["env"], order["working_dir"], order["sys_path"])
    surroundings.begin(order["env_vars"].keys())
    set_core(core)
    main_module.install()
    core.reactor.start()
    reply: m.WorkerRegistered = core.peers.request(
        "registered", m.RegisterWorker(core.address, os.getpid())
    )
    core.joined(reply.node_id, reply.arena_path, reply.arena_size)
    output = WorkerOutput(core.config, core.me, core.reactor, core.peers, order["log"])
    core.on_forked.append(output.forget_in_fork)
    core.events.log_ends = output.ends
    capture_output(output)
    runner.scope.output = output
    asides = Asides(core.me, core.reactor, core.peers, output)
    stops = Stops(core.config, core.me, asides, core.cancelling.noted.__contains__)
    install_breakpoints(stops)
    runner.scope.watching = TaskProfiles(asides)
    runner.on_failure = FailureTeller(core.config, asides, stops).on_failure
    return output


def _run_worker(common: _Common, parts: _Parts, order: dict[str, Any]) -> int:
    """Until the worker is to leave; returns its exit status."""
    output = _begin(common, parts, order)
    core, executor = parts.core, parts.executor
    before_exit(core.reactor)
    executor.run()
    atexit.register(_end_children)  # it runs before those that user code has registered
    executor.end()
    output.finish()
    core.tell_last()
    crashes = executor.exit_status is not None
    core.peers.stop(
        close=not crashes
    )  # the raylet kills who closes, and could not tell how it ended
    return executor.exit_status or 0


def _build(common: _Common) -> _Parts:
    """All that is not of one worker: built once in the template, and ready in each of its forks."""
    core = CoreWorker(common.config, common.token, b"", "", tls=common.tls)
    core.edge.on_raylet_lost = _leave_at_once
    core.on_job = core.runtime_envs.enter_job
    executor, runner, surroundings = _build_runner(core)
    return _Parts(core, executor, runner, surroundings)


def _build_runner(core: CoreWorker) -> tuple[Executor, TaskRunner, Surroundings]:
    """The parts that a worker has and a driver has not."""
    me, events, values, cancelling = core.me, core.events, core.values, core.cancelling
    scope = TaskScope(me, events)
    making = Making(core.config, core.table, core.stored)
    writers = StreamWriters(core.reactor, core.table, core.borrowing, core.stored, core.blocking)
    arriving = Arriving(values, core.stored)
    runner = TaskRunner(me, values, making, writers, scope, events, arriving)
    counts = RunCounts(core)

    def make_host(spec: ActorSpec, host: Host) -> ActorHost:
        return ActorHost(
            spec,
            host,
            me,
            core,
            runner,
            scope,
            values,
            core.stored,
            events,
            cancelling,
            core.reactor,
        )

    def written() -> None:
        replies.record()
        core.written()

    def is_needed(worn: bool) -> bool:
        return core.is_needed() if worn else core.table.owns_any()

    replies = Replies(core.table, core.borrowing, events, making, counts, runner.errors)
    surroundings = Surroundings(me, core.devices, core.runtime_envs)
    executor = Executor(
        core.config, me, core.peers, cancelling, runner, replies, surroundings, make_host, is_needed
    )
    core.peers.handlers[m.ItemsTaken] = lambda _owner, message: writers.on_taken(message)
    core.edge.on_closed.append(writers.closed)
    core.on_executor_turn = replies.turn
    core.reactor.on_written = written
    core.on_exit_actor = executor.exit.asked
    core.on_forked.append(executor.forget_in_fork)
    core.blocking.before = executor.before_blocking
    core.find_function = runner.function
    core.reports.insert(0, replies.record)
    core.reports.append(counts.tell)
    events.function_name = runner.functions.name
    return executor, runner, surroundings


def _end_children() -> None:
    """End what `multiprocessing` would wait for at the end: it is ended with this process."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()


def _leave_at_once() -> None:
    """The raylet has gone: end this process and its children.

    The template does the same, if it lives. Whether it does is not asked: one that is being killed
    is still the parent for a moment.
    """
    try:
        kill_sessions({os.getpid(): start_time(os.getpid())})
    except OSError:  # no descriptor is left: all but those with a process group of their own
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the template until its raylet closes the control socket."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--session-dir", required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--preload", required=True, help="what the code of tasks will import")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    import_module(args.preload)
    control = socket.socket(fileno=args.control_fd)
    session = Session(Path(args.session_dir))
    common = _Common(session, session.token, Config.from_env(), Tls.of(session.path))
    _Template(common, control).serve()


if __name__ == "__main__":
    main()
