"""``%nbray up``, ``down``, and ``attach`` with a file: clusters of many machines."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.common.process import ProcessStartError
from nbray.exceptions import NbrayError
from nbray.machines.answers import running_head
from nbray.machines.cluster_file import ClusterFileError
from nbray.notebook import engine

from .base import Command
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace

_PROGRAM = "from nbray.cli import main; main()"


def _file(parser: Parser) -> None:
    parser.add_argument("file", metavar="FILE", help="the cluster's YAML file")


def _run(verb: str, file: str) -> None:
    """Run the shell's command, and show its lines as they come; an interrupt is its own.

    Raises:
        UsageError: it failed; why stands above.
    """
    command = [sys.executable, "-c", _PROGRAM, verb, file, "--yes"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        while process.poll() is None:
            try:
                for line in process.stdout:
                    print(line, end="", flush=True)
                process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)  # it ends what it has begun, and tells
    if process.returncode:
        raise UsageError(f"%nbray {verb} {file} failed; why stands above.")


def _up(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    _run("up", arguments.file)
    return None


def _down(_workspace: Workspace, arguments: argparse.Namespace) -> object:
    _run("down", arguments.file)
    return None


def names_file(address: str) -> bool:
    """Whether what stands behind ``%nbray attach`` is a file, and no address."""
    is_yaml = address.endswith((".yaml", ".yml"))
    return is_yaml or os.path.isfile(address)  # and not `Path`, which raises for long names


def names_cell(address: str) -> bool:
    """Whether it is a detached cell, and neither an address nor a file."""
    return not (":" in address or address in ("auto", "local") or names_file(address))


def attach(file: str, namespace: str | None) -> None:
    """Join the cluster of a file: on one of its machines, or from one that reaches them.

    Raises:
        UsageError: its head does not run, or cannot be reached.
    """
    try:
        with ThreadPoolExecutor(1) as thread:  # the kernel's own thread has an event loop
            head = thread.submit(running_head, Path(file)).result()
        engine().cluster.join(head.gcs_address, head.token.encode(), namespace)
    except (ClusterFileError, NbrayError, OSError, ProcessStartError, ValueError) as error:
        raise UsageError(f"%nbray attach {file}: {error}") from error


COMMANDS = (
    Command("up", "Bring the cluster of a file up, or change what differs from it.", _up, _file,
            needs_cluster=False),
    Command("down", "End the cluster of a file, on all its machines.", _down, _file,
            needs_cluster=False),
)  # fmt: skip
