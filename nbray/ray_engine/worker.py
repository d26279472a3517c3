"""What an engine is in a worker of Ray: its output goes to the post office of its notebook.

`install` is the ``worker_process_setup_hook`` of the job: Ray calls it in each worker before the
first task. Streams are doubled: what is written goes into Ray's log as before, and with the id of
the task that writes to the notebook, a tenth of a second later or at the end of a remote cell.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorClass, ActorHandle
from ray.remote_function import RemoteFunction

from nbray.common.displays import as_json
from nbray.common.text import encodable
from nbray.notebook import use

from . import calls
from .post import Batch, Row, office
from .told import as_told

OFFICE = "NBRAY_POST_OFFICE"
"""The environment variable with the name of the notebook's post office."""
_PERIOD_S = 0.1
_SIZE = 1 << 20
_FLUSH_S = 5.0


class Names:
    """Ray's public names: those of the package, and three that it has elsewhere."""

    ActorClass = ActorClass
    ActorHandle = ActorHandle
    RemoteFunction = RemoteFunction

    def __getattr__(self, name: str) -> Any:
        return getattr(ray, name)


class Copies:
    """Memory for one piece of work: what was read in place is copied before it is written."""

    def __init__(self) -> None:
        self.size = 0

    def writable(self, memory: Any) -> memoryview:
        """See `nbray.notebook.Memory`."""
        view = memoryview(memory).cast("B")
        if not view.readonly:
            return view
        self.size += view.nbytes
        return memoryview(bytearray(view))

    def mark(self, buffer: memoryview) -> tuple[object, ...]:
        """See `nbray.notebook.Memory`."""
        return "bytes", buffer.nbytes, zlib.crc32(buffer)


class Reporter:
    """Collects what this worker has to say, and sends it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()  # a finalizer may print while its thread does
        self._sending = threading.Lock()
        self._batch = Batch()
        self._size = 0
        self._wake = threading.Event()
        self._office: Any = None
        self._gone = False
        self._last: Any = None
        threading.Thread(target=self._serve, name="nbray-report", daemon=True).start()

    def write(self, kind: str, text: str) -> None:
        """A task has written ``text``."""
        if self._gone or not text:
            return
        task, name, node = _here()
        with self._lock:
            rows = self._batch.rows
            printed = kind in ("stdout", "stderr")
            if printed and rows and (rows[-1].kind, rows[-1].task) == (kind, task):
                row = rows[-1]
            else:
                row = Row(kind, task, name, os.getpid(), node, "")
                rows.append(row)
            if printed and self._size > _SIZE:
                row.dropped += text.count("\n")
            else:
                row.text += text
                self._size += len(text)
        self._wake.set()

    def child(self, made: Any, _name: str) -> None:
        """A call from here has returned ``made``."""
        parent = _here()[0]
        for ref in made if isinstance(made, list) else [made]:
            with self._lock:
                self._batch.children[ref.task_id().hex()] = parent
        self._wake.set()

    def flush(self) -> None:
        """Have all of it at the post office; what comes after this is behind it."""
        self._send()
        last = self._last
        if last is not None:
            ray.wait([last], timeout=_FLUSH_S)

    def _serve(self) -> None:
        while not self._gone:
            self._wake.wait()
            self._wake.clear()
            threading.Event().wait(_PERIOD_S)  # what comes meanwhile goes with it
            self._send()

    def _send(self) -> None:
        with self._sending:
            with self._lock:
                batch, self._batch, self._size = self._batch, Batch(), 0
            if not (batch.rows or batch.children):
                return
            try:
                if self._office is None:
                    self._office = office(self._name)
                self._last = self._office.put.remote(batch)
            except (ValueError, ray.exceptions.RayError):  # the notebook has gone, and its actor
                self._gone = True


def _here() -> tuple[str, str, str]:
    """Id and name of the task that this thread runs, and the node."""
    context = ray.get_runtime_context()
    return context.get_task_id() or "", context.get_task_name() or "", context.get_node_id()


_MARKS = (":job_id:", ":task_name:", ":actor_name:")
"""How lines begin that Ray writes into a log to know whose the lines behind them are."""


class Doubled:
    """A stream that also reports what is written to it."""

    def __init__(self, stream: Any, kind: str, report: Callable[[str, str], None]) -> None:
        self._stream = stream
        self._kind = kind
        self._report = report
        self._marked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """See `io.TextIOBase`; halves of surrogate pairs are escaped: Ray's streams refuse them."""
        text = encodable(text)
        if text.startswith(_MARKS):
            self._marked = not text.endswith("\n")
        elif self._marked and text == "\n":
            self._marked = False
        else:
            self._report(self._kind, text)
        written: int = self._stream.write(text)
        return written

    def writelines(self, lines: Any) -> None:
        """See `io.TextIOBase`."""
        for line in lines:
            self.write(line)


def _wake_from_sleep() -> None:
    """Let a cancelled task end while it sleeps, or waits in another call of the system.

    Ray cancels by a signal that only Python sees: it is looked at when the call returns. Python
    tells of each signal in a pipe, and its reader sends the main thread another one, which ends
    the call. Again before each cell, since a loop of asyncio takes the pipe for itself.
    """
    global _wakes
    if threading.current_thread() is not threading.main_thread():
        return
    if not _wakes:
        signal.signal(signal.SIGURG, _nothing)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        main = threading.get_ident()
        _wakes = writer

        def nudge() -> None:
            while told := os.read(reader, 512):
                if signal.SIGINT in told:
                    signal.pthread_kill(main, signal.SIGURG)

        threading.Thread(target=nudge, name="nbray-wake", daemon=True).start()
    signal.set_wakeup_fd(_wakes, warn_on_full_buffer=False)


def _nothing(_number: int, _frame: Any) -> None:
    """The signal has done its work by coming."""


_wakes = 0
_reporter: Reporter | None = None


class _Output:
    """See `nbray.notebook.Output`: of it, what a worker needs."""

    def in_worker(self) -> bool:
        """It is one."""
        return True

    def display(self, kind: str, content: dict[str, Any]) -> None:
        """Send something rich."""
        if _reporter is not None:
            _reporter.write(kind, as_json(content))


class _Cluster:
    """See `nbray.notebook.Cluster`: of it, what a worker needs."""

    def for_programs(self) -> dict[str, str]:
        """A program has nbray itself, not what travelled here, if it is installed on this node."""
        paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        kept = [path for path in paths if path and "/py_modules_files/" not in path]
        return {"PYTHONPATH": os.pathsep.join(kept)}

    def logs(self) -> Path:
        """Those of this node's session, in whose folder lies what travelled here."""
        for folder in Path(__file__).parents:
            if folder.name == "runtime_resources":
                return folder.with_name("logs")
        return Path(tempfile.gettempdir())


class _InWorker:
    """See `nbray.notebook.Engine`: of it, what a worker needs."""

    name = "ray"
    cluster = _Cluster()
    api = Names()
    output = _Output()
    memory = Copies
    handles = (ray.ObjectRef, ActorHandle, ActorClass, RemoteFunction)


def install() -> None:
    """Make this process a worker of the notebook whose post office the environment names."""
    global _reporter
    engine: Any = _InWorker()
    use(engine)
    name = os.environ.get(OFFICE)
    if name is None or _reporter is not None:
        return
    reporter = _reporter = Reporter(name)
    sys.stdout = Doubled(sys.stdout, "stdout", reporter.write)
    sys.stderr = Doubled(sys.stderr, "stderr", reporter.write)
    calls.tell(reporter.child)
    calls.install()
    _wake_from_sleep()
    if "RAY_DEBUG" not in os.environ:  # else somebody waits with a debugger of Ray's
        sys.breakpointhook = _pass_over


def _pass_over(*_args: Any, **_options: Any) -> None:
    """What `breakpoint()` does: Ray's own would wait for a debugger that no notebook has."""
    frame = sys._getframe(1)
    print(
        f"breakpoint() at {Path(frame.f_code.co_filename).name}:{frame.f_lineno} is passed over: "
        "with Ray as the engine no cell can ask its tasks. RAY_DEBUG=1 in the environment of Ray's "
        "workers leaves it to Ray's own debugger.",
        file=sys.stderr, flush=True,
    )  # fmt: skip


def flush() -> None:
    """Send what this worker has printed so far."""
    if _reporter is not None:
        _reporter.flush()


def run(pickled: Any, *arguments: Any) -> Any:
    """Run a pickled function with these arguments; what it prints is there before its result."""
    from nbray import cloudpickle

    install()
    _wake_from_sleep()
    try:
        return cloudpickle.loads(pickled)(*arguments)
    except Exception as error:
        told = error if isinstance(error, ray.exceptions.RayError) else as_told(error)
        if told is error:
            raise
    finally:
        flush()
    raise told
