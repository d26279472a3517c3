"""A real kernel for the tests, and what it publishes for each cell."""

from __future__ import annotations

import os
import queue
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from nbray.testing import processes_of, wait_until
from support import from_afar


def is_panel(content: dict[str, Any]) -> bool:
    """Whether a display is a cell's panel."""
    return str(content.get("transient", {}).get("display_id", "")).startswith("nbray-")


class Cell:
    """One executed cell and everything that was published for it."""

    def __init__(self, message_id: str) -> None:
        self.message_id = message_id
        self.messages: list[tuple[str, dict[str, Any]]] = []

    def texts(self, kind: str) -> str:
        return "".join(content["text"] for name, content in self.messages if name == kind)

    @property
    def printed(self) -> str:
        return self.texts("stream")

    @property
    def result(self) -> str:
        """What the cell shows, but for its panel, which a slow machine adds."""
        for name, content in self.messages:
            if name in ("execute_result", "display_data") and not is_panel(content):
                return str(content["data"]["text/plain"])
        return ""

    @property
    def label(self) -> str:
        """As messages name the cell: ``In [3]``."""
        counts = [c["execution_count"] for name, c in self.messages if name == "execute_input"]
        return f"In [{counts[0]}]" if counts else "In [?]"

    @property
    def results(self) -> list[str]:
        kinds = ("execute_result", "display_data", "update_display_data")
        return [c["data"]["text/plain"] for name, c in self.messages if name in kinds]

    @property
    def error(self) -> str:
        for name, content in self.messages:
            if name == "error":
                return content["ename"] + "\n" + "\n".join(content["traceback"])
        return ""

    @property
    def idle(self) -> bool:
        return ("status", {"execution_state": "idle"}) in self.messages


class Notebook:
    """Runs cells one after the other and sorts what the kernel publishes by cell."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self._client = client
        self._cells: dict[str, Cell] = {}

    def ready(self) -> None:
        """Wait for a kernel that was restarted."""
        self._client.wait_for_ready(timeout=60)

    def start(self, code: str) -> Cell:
        message_id = self._client.execute(code, allow_stdin=False)
        cell = self._cells[message_id] = Cell(message_id)
        return cell

    def prepare(self, code: str) -> None:
        """Run code that is no cell."""
        reply = self._client.execute(code, silent=True, reply=True, timeout=60)
        assert reply["content"]["status"] == "ok", reply["content"]

    def answer(self, code: str, lines: Sequence[str | None], timeout: float = 60.0) -> Cell:
        """Run a cell that asks for input: one line for each question; None interrupts it."""
        message_id = self._client.execute(code, allow_stdin=True)
        cell = self._cells[message_id] = Cell(message_id)
        left = list(lines)

        def is_over() -> bool:
            with suppress(queue.Empty):
                self._client.get_stdin_msg(timeout=0.02)
                line = left.pop(0)
                self._client.input(line) if line is not None else self.manager.interrupt_kernel()
            return cell.idle

        self.wait(is_over, f"the end of {code!r}", timeout, cell)
        assert not left, f"it did not ask for {left}; it printed {cell.printed}{cell.error}"
        return cell

    def run(self, code: str, timeout: float = 60.0) -> Cell:
        cell = self.start(code)
        self.wait(lambda: cell.idle, f"the end of {code!r}", timeout, cell)
        return cell

    def complete(self, code: str) -> list[str]:
        """What tab completion offers at the end of ``code``."""
        reply = self._client.complete(code, reply=True, timeout=60)
        matches: list[str] = reply["content"]["matches"]
        return matches

    def inspect(self, name: str) -> str:
        """What Shift-Tab shows of a name."""
        reply = self._client.inspect(name, reply=True, timeout=60)
        return str(reply["content"]["data"]["text/plain"])

    def debug(self, command: str, **arguments: Any) -> dict[str, Any]:
        """What the debugger of JupyterLab asks the kernel; returns the body of the answer."""
        message = {"type": "request", "command": command, "seq": 1, "arguments": arguments}
        sent = self._client.session.msg("debug_request", message)
        self._client.control_channel.send(sent)
        while True:
            try:
                reply = self._client.control_channel.get_msg(timeout=60)
            except queue.Empty:
                raise AssertionError(f"not within 60 s: an answer to {command!r}") from None
            if reply["parent_header"].get("msg_id") == sent["header"]["msg_id"]:
                body: dict[str, Any] = reply["content"].get("body", {})
                return body

    def wait(
        self, condition: Any, what: str, timeout: float = 60.0, *shown: Cell
    ) -> None:  # fmt: skip
        """Take what the kernel publishes until a condition holds; fail with what cells showed."""
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                cells = shown or [*self._cells.values()][-3:]
                seen = "\n".join(f"{one.label}: {one.printed[-2000:]}{one.error}" for one in cells)
                raise AssertionError(f"not within {timeout} s: {what}; the cells showed:\n{seen}")
            try:
                message = self._client.get_iopub_msg(timeout=0.1)
            except queue.Empty:
                continue
            cell = self._cells.get(message["parent_header"].get("msg_id", ""))
            if cell is not None:
                cell.messages.append((message["msg_type"], message["content"]))


@contextmanager
def running_kernel(python: str = "") -> Iterator[Notebook]:
    """A kernel, of another Python if one is named; no colours.

    It listens on Unix sockets: ports that are free when they are chosen may be another test's by
    the time at which it has imported what it needs.
    """
    with tempfile.TemporaryDirectory(prefix="nbk") as folder:
        yield from _kernel(python, KernelManager(transport="ipc", ip=f"{folder}/k"))


def _kernel(python: str, manager: KernelManager) -> Iterator[Notebook]:
    if python:
        assert manager.kernel_spec is not None
        manager.kernel_spec.argv[0] = python
    manager.shutdown_wait_time = 30.0  # a killed kernel leaves its session's folder
    manager.start_kernel(extra_arguments=["--colors=NoColor"])
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Notebook(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


@contextmanager
def running_notebook(options: str = "") -> Iterator[Notebook]:
    """A kernel with the extension and a cluster of two CPUs."""
    with running_kernel() as notebook:
        assert not notebook.run("%load_ext nbray").messages[-1][1].get("error")
        if from_afar.is_wanted():
            notebook.prepare(from_afar.INSTALL)
        assert "1 node" in notebook.run(f"%nbray start --head --num-cpus 2 {options}").result
        yield notebook


@pytest.fixture
def notebook(session_root: Path) -> Iterator[Notebook]:
    """A kernel with the extension and a cluster of two CPUs."""
    with running_notebook() as found:
        yield found


@pytest.fixture(scope="module")
def shared_notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """One kernel for the tests of a module that do not disturb each other."""
    root = tmp_path_factory.mktemp("nb")
    root.chmod(0o700)
    before = os.environ.get("NBRAY_TMPDIR")
    os.environ["NBRAY_TMPDIR"] = str(root)
    try:
        with running_notebook() as found:
            yield found
        wait_until(lambda: not processes_of(root), "the end of all processes of the module")
    finally:
        if before is None:
            del os.environ["NBRAY_TMPDIR"]
        else:
            os.environ["NBRAY_TMPDIR"] = before


@pytest.fixture(name="notebook")
def one_kernel_for_most(shared_notebook: Notebook) -> Notebook:
    """The module's kernel, for its tests that do not disturb each other."""
    return shared_notebook


@pytest.fixture
def fresh_notebook(session_root: Path) -> Iterator[Notebook]:
    """A kernel of its own, for a test that disturbs."""
    with running_notebook() as found:
        yield found
