"""What tests of detached cells share: a cluster that hangs on no kernel, and cells that go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from support.commands import command
from support.kernel import Notebook, running_kernel

STEPS = (
    "import os, time\nfor i in range(1000):\n    print('step', i)\n    time.sleep(0.05 * 1.03**i)\n"
    "    if os.path.exists({0!r}):\n        break\n"
)
"""Prints until there is a file, ever more slowly: a notebook shows 200 lines, here ten minutes."""


@contextmanager
def lasting_cluster(options: str = "") -> Iterator[None]:
    """A cluster that hangs on no kernel."""
    words = ("--num-cpus=2", "--port=0", "--dashboard-port=0", *options.split())
    started = command("start", "--head", *words)
    assert started.returncode == 0, started.stderr
    try:
        yield
    finally:
        command("stop", "--force")


@contextmanager
def attached_kernel() -> Iterator[Notebook]:
    """A kernel that has joined it."""
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray")
        assert "CPU" in notebook.run("%nbray attach").result
        yield notebook


def kill_kernel(notebook: Notebook) -> None:
    """As the machine's memory killer does."""
    os.kill(notebook.manager.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]


def steps_of(text: str) -> list[str]:
    """The lines that a cell of `STEPS` has printed."""
    return [line for line in text.splitlines() if line.startswith("step")]
