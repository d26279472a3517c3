"""A place in a task where it waits until a test says that it may go on."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from nbray.testing.waits import wait_until


class Gate:
    """Blocks tasks at a line of theirs, and tells a test that they are there.

    It is made of files, so that it works in any process on the machine, whatever has become of the
    cluster meanwhile, and travels as an argument or in a closure.

    Args:
        folder: where the files are; one that exists, as pytest's ``tmp_path``.
        timeout: the most seconds that anybody waits; then the wait fails.

    Examples:
        The worker is killed exactly while the task runs:

        ```python
        import os
        import signal
        import tempfile
        from pathlib import Path

        import nbray
        from nbray.testing import Gate

        nbray.init(num_cpus=1)

        @nbray.remote(max_retries=1)
        def task(gate):
            gate.wait_here()
            return "done"

        gate = Gate(Path(tempfile.mkdtemp()))
        ref = task.remote(gate)
        (pid,) = gate.wait_for(1)
        os.kill(pid, signal.SIGKILL)
        gate.open()
        assert nbray.get(ref) == "done"
        ```
    """

    def __init__(self, folder: Path, timeout: float = 60.0) -> None:
        self._folder = Path(folder) / f"gate-{uuid.uuid4().hex[:8]}"
        self._folder.mkdir()
        self._timeout = timeout

    def wait_here(self) -> None:
        """Say that this process is here, and wait until the gate is open.

        Raises:
            AssertionError: nobody opened it in time.
        """
        (self._folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}").touch()
        wait_until((self._folder / "open").exists, "the gate to be opened", self._timeout)

    def arrived(self) -> list[int]:
        """The pids of those that came, the first first; one that came twice is there twice."""
        found = [path for path in self._folder.iterdir() if path.name != "open"]
        found.sort(key=lambda path: path.stat().st_mtime_ns)
        return [int(path.name.partition("-")[0]) for path in found]

    def wait_for(self, count: int = 1) -> list[int]:
        """Wait until so many have come; their pids.

        Args:
            count: how many.

        Returns:
            The pids of all that came, the first first.

        Raises:
            AssertionError: they did not come in time.
        """
        wait_until(lambda: len(self.arrived()) >= count, f"{count} at the gate", self._timeout)
        return self.arrived()

    def open(self) -> None:
        """Let all go on that are there, and all that will come."""
        (self._folder / "open").touch()
