"""What the extension knows of one notebook; the magics and commands work on this."""

from __future__ import annotations

import contextlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nbray.debugging.talk import FAILED, PROFILED, STOPPED
from nbray.exceptions import LocalRayletDiedError, TaskError
from nbray.notebook import ObjectRef, TaskSays, engine

from .cache.cells import CellCache
from .cell.actors import CellActors
from .cell.arriving import take_back, take_back_all
from .cell.errors import ErrorDisplay, debug_hint, remote_lines
from .cell.failures import Failures
from .cell.interrupts import CellTasks
from .cell.local_modules import LocalModules
from .cell.profiles import Profiles
from .cell.remote_value import MISSING, RemoteValue, remote_names
from .cell.run import Detached, RemoteRun, cluster_name
from .cell.setup_cells import SetupCells
from .cell.shipping import Shipped
from .cell.stops import Stops
from .cell.values import Packed, SentValues
from .messages import CellExit
from .output.router import OutputRouter
from .pictures.formatters import Formatters
from .pictures.tables import as_bytes
from .settings import Settings
from .worker.own_values import make_own

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_RUNS = 200
_OBJECT_ID = re.compile(r"\b[0-9a-f]{56}\b")


class Workspace:
    """One notebook, its shell, and everything that its remote cells left here.

    Attributes:
        runs: the last remote cells, oldest first.
        sent: what their values left in the object store.
        setup: the set-up cells.
        actors: those that its cells run in.
        errors: how remote errors are shown, and the last one.
        formatters: how handles are shown.
        failures: its tasks that failed, as a debugger needs them.
        at_end: is called once, when the cell that runs has ended.
        profiles: where the time of its cells went.
        stops: its tasks that stand in a debugger.
        cache: what cells with ``--cache`` have kept.
        start_options: what ``%nbray start`` was told of the cluster that runs.
    """

    def __init__(self, shell: InteractiveShell, router: OutputRouter) -> None:
        self.shell = shell
        self.router = router
        self.settings = Settings()
        self.errors = ErrorDisplay(shell)
        self.formatters = Formatters(router.label)
        self.runs: deque[RemoteRun] = deque(maxlen=_RUNS)
        self.sent = SentValues()
        self.setup: SetupCells = SetupCells()
        self.actors = CellActors()
        self.tasks = CellTasks(self.settings, router.number_of_cell)
        self.modules = LocalModules()
        self.failures = Failures()
        self.profiles = Profiles()
        self.stops = Stops(router, lambda prompt: input(prompt))
        self.at_end: list[Callable[[], None]] = []
        self.cache = CellCache(self)
        self.start_options: dict[str, Any] = {}
        self._cluster = ""
        self._interrupted = False

    @property
    def namespace(self) -> dict[str, Any]:
        """The names of the notebook."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    def plug(self) -> None:
        """The engine of now gives output here, and its handles and errors are shown as ours."""
        self.settings.engine = engine().name
        engine().output.listen(self.router)
        engine().asides.listen(self.aside)
        engine().code.wrap(lambda target: self.modules.wrap(Shipped(target)))
        self.errors.install()
        self.formatters.install(self.shell)

    def unplug(self) -> None:
        """Undo `plug`."""
        self.formatters.uninstall(self.shell)
        self.errors.uninstall()
        engine().output.listen(None)
        engine().asides.listen(None)
        engine().code.wrap(None)

    def transform(self, text: str) -> str:
        """Magics as Python, by the notebook's own IPython."""
        code: str = self.shell.transform_cell(text)  # type: ignore[no-untyped-call]
        return code

    def before_cell(self, _info: object = None) -> None:
        """IPython calls this before each cell."""
        try:
            self.tasks.begin()
            self.stops.begin_cell()
            engine().code.new_cell()
            self.check_cluster()
            take_back_all(self.namespace)
            self.modules.new_cell()
        except KeyboardInterrupt:  # IPython would show it as an error of ours, and run the cell
            self._interrupted = True

    def take_interrupt(self) -> bool:
        """Whether the cell was interrupted before its first statement; once."""
        taken, self._interrupted = self._interrupted, False
        return self.router.take_interrupt() or taken

    def after_cell(self, result: object) -> None:
        """IPython calls this after each cell."""
        with contextlib.suppress(KeyboardInterrupt):  # there is no cell any more to interrupt
            self.stops.end_cell()
            self.tasks.end(result)
            while self.at_end:
                self.at_end.pop()()

    def joined(self) -> None:
        """This kernel has come into a cluster."""
        self.check_cluster()
        self.modules.joined()

    def check_cluster(self) -> None:
        """What was kept in a cluster that has been left, by whatever way, is forgotten."""
        now = cluster_name()
        if now != self._cluster:
            self.left()
            self._cluster = now

    def left(self) -> None:
        """The cluster goes, and what was kept in it."""
        self.sent.clear()
        self.setup.clear()
        self.actors.clear()
        self.stops.clear()
        self.start_options = {}

    def aside(self, message: TaskSays) -> None:
        """A task says something beside its output; on the thread that drives the sockets."""
        if message.kind == FAILED:
            self.failures.add(message)
        elif message.kind == STOPPED:
            self.stops.add(message)
        elif message.kind == PROFILED:
            self.profiles.add(message)

    def cell_label(self) -> str:
        """The number of the cell that runs now; IPython counts it before or after, by version."""
        history = self.shell.history_manager
        number = len(history.input_hist_parsed) - 1 if history is not None else 0
        return f"In [{number}]"

    def set_up_by(self) -> list[tuple[str, str]]:
        """The set-up cells: name of each, and a digest of what it does and reads."""
        return self.setup.contents()

    def cell_id(self) -> str:
        """What the notebook's document calls the cell that runs now; "" if nobody says."""
        metadata: dict[str, Any] = self.router.current_cell().get("metadata", {})
        return str(metadata.get("cellId", ""))

    def tell_what_was_sent(self, packed: Packed) -> None:
        """One line when it was much."""
        total = sum(packed.new_bytes.values())
        if total >= self.settings.tell_bytes:
            sizes = sorted(packed.new_bytes.items(), key=lambda item: -item[1])
            names = ", ".join(f"{name or 'a copy'} {as_bytes(size)}" for name, size in sizes)
            print(f"Sent {as_bytes(total)} ({names}); later cells read it from the object store.")

    # --- remote names --------------------

    def resolve(self, names: Sequence[str]) -> None:
        """Put the values of all RemoteValues that using ``names`` reads in their places.

        A function that arrives may read further names, so this looks again until none is left.

        Raises:
            BaseException: what the remote cell raised, with its traceback.
        """
        while waiting := remote_names(names, self.namespace):
            for name in waiting:
                remote = self.namespace[name]
                if not isinstance(remote, RemoteValue):  # it came with another one
                    continue
                try:
                    value = remote.get()
                except BaseException as error:  # the cell's error, whatever its class
                    shown = self.rendered(error, remote.run)
                    take_back(self.namespace, name)
                    raise shown from None
                if remote.among:
                    self._resolve_others(remote.ref)
                    continue
                memory = engine().memory()
                value = make_own(value, memory, self.namespace)
                self.namespace[name] = value
                self.sent.came_from(name, value, remote.ref, memory)

    def own(self, value: Any) -> Any:
        """A value that a cell returned, which may be changed here."""
        return make_own(value, engine().memory(), self.namespace)

    def _resolve_others(self, ref: ObjectRef) -> None:
        """Values that were changed by one cell come together: they may share their parts."""
        values = self.own(engine().api.get(ref))
        for name, value in list(self.namespace.items()):
            if isinstance(value, RemoteValue) and value.among and value.ref == ref:
                self.namespace[name] = values[value.name]

    # --- errors --------------------

    def shown_error(self, error: BaseException, run: RemoteRun) -> BaseException:
        """What a cell raises that waited for ``run``: `sys.exit` is shown as a kernel does it."""
        shown = self.rendered(error, run)
        if isinstance(error, TaskError) and isinstance(error.cause, CellExit):
            return SystemExit(error.cause.code)
        return shown

    def rendered(self, error: BaseException, run: RemoteRun) -> BaseException:
        """``error``, which IPython now shows by the remote cell's lines instead of nbray's."""
        lines = [*self.error_lines(error, run), *run.where()]
        if isinstance(error, KeyboardInterrupt):
            self.tasks.handled = True
        shown: BaseException = self.errors.rendered(error, lines, f"remote cell {run.label}")
        return shown

    def error_lines(self, error: BaseException, run: RemoteRun) -> list[str]:
        """The error of a remote cell as text: the user's own frames first to last."""
        if isinstance(error, Detached):
            return [f"{run.label} goes on in the cluster; what it makes appears in its cell."]
        if isinstance(error, KeyboardInterrupt):
            lines = [f"KeyboardInterrupt: remote cell {run.label} was cancelled."]
            if run.stopped == "killed":
                lines = [f"KeyboardInterrupt: remote cell {run.label} was killed."]
            elif run.stopped == "still running":
                number = run.label.replace(" ", "")
                lines.append(f"It has not stopped: %nbray cancel {number} --force kills it.")
            return lines
        lines = [self._with_names(line, run) for line in remote_lines(error, self.errors.cells)]
        if isinstance(error, TaskError) and isinstance(error.cause, CellExit):
            lines[-1] = f"SystemExit: {error.cause}".rstrip(" :")
        if isinstance(error, LocalRayletDiedError):
            lines.append("In a notebook, %nbray start does both.")
        if run.state() in ("failed", "cancelled"):
            root = _root(run)
            lines += ["", f"Remote cell {root.label} did not finish."]
            if root.state() == "failed":
                lines[-1] += f" {debug_hint()}".rstrip()
            names = dependents(root, self.namespace)
            if names:
                lines.append(f"Without a value because of it: {', '.join(names)}.")
            if root.unchanged:
                lines.append(f"As before it: {', '.join(root.unchanged)}.")
        return lines

    def _with_names(self, line: str, run: RemoteRun) -> str:
        """A line with the names of the notebook behind the ids of their values."""
        if not _OBJECT_ID.search(line):
            return line
        names = dict(run.names)
        names |= {entry.ref.hex(): entry.name for entry in self.sent.entries()}
        names |= {
            value.hex(): name
            for name, value in self.namespace.items()
            if isinstance(value, engine().api.ObjectRef)
        }
        names |= {
            value.ref.hex(): name
            for name, value in self.namespace.items()
            if isinstance(value, RemoteValue)
        }
        return _OBJECT_ID.sub(
            lambda found: f"{found[0]} ({names[found[0]]})" if found[0] in names else found[0], line
        )


def _root(run: RemoteRun) -> RemoteRun:
    """The first run that failed, among this one and those whose values it reads."""
    for earlier in run.inputs:
        if earlier.state() in ("failed", "cancelled"):
            return _root(earlier)
    return run


def dependents(run: RemoteRun, namespace: Mapping[str, Any]) -> list[str]:
    """The names of ``namespace`` that have no value when ``run`` fails."""
    return [
        f"{name} ({value.run.label})"
        for name, value in dict(namespace).items()
        if isinstance(value, RemoteValue)
        and value.previous is MISSING
        and value.run.depends_on(run)
    ]
