"""``nbray symmetric-run``: one command for all machines of an allocation.

Each machine runs the same words. One of them is the head: it starts the cluster, waits for the
others, runs the user's command, and says in the cluster that it is over; the others start nodes and
stay until then. Nobody is asked to find a port that is free on the first machine before it runs:
inside Slurm the head takes any, and writes its address where the others look.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psutil
from click.exceptions import Exit

from nbray.cli.declared import declared_options
from nbray.cli.leaving import Drain, notices_wait, was_drained
from nbray.cli.start import start_node
from nbray.cli.terminal import CliError, say
from nbray.common.addresses import (
    interface_address,
    is_loopback,
    is_of_this_machine,
    joined,
    own_address,
    split,
)
from nbray.common.process import NOTICES
from nbray.common.session import GCS
from nbray.launcher.local import RunningNode
from nbray.options.option import Scope
from nbray.slurm.meeting import MeetingPoint
from nbray.slurm.step import NotInStepError, Step, find_step, is_in_job
from nbray.state import queries
from nbray.state.rows import NodeState
from nbray.wire.credentials import read_identity
from nbray.wire.gcs_messages import KvCount, KvKey, KvPut
from nbray.wire.grpc_service import GrpcClient, RpcError

_DECIDED_HERE = (
    "head",
    "address",
    "node_ip_address",
    "port",
    "block",
    "session",
    "autoscaling_config",
)
_SPACE, _OVER = b"symmetric-run", b"over"
_LOOK_S = 0.2
_ASK_S = 1.0
_TELL_S = 5.0
_OTHERS_LEAVE_S = 15.0
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@click.command("symmetric-run")
@click.option("--address", metavar="HOST:PORT", help="Where the head is: the machine that has this "
              "address. Inside of srun it is the first host, and need not be named.")  # fmt: skip
@click.option("--min-nodes", "--wait-for-nnodes", type=click.IntRange(1), metavar="N",
              help="Run the command when so many nodes are there: by default 1, without --address "
              "as many as srun started.")  # fmt: skip
@click.option("--wait", "patience", type=click.FloatRange(min=0), default=120.0, show_default=True,
              envvar=["NBRAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT",
                      "RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT"],
              help="Seconds in which the head, and then the nodes, have to be there.")  # fmt: skip
@declared_options(Scope.START, without=_DECIDED_HERE)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def symmetric_run(
    address: str | None, min_nodes: int | None, patience: float, command: tuple[str, ...],
    **options: Any,
) -> None:  # fmt: skip
    """Run COMMAND in a cluster of all machines that run these words.

    On one of them, COMMAND runs, and its exit code is that of this command; signals are passed on
    to it. The cluster ends with it. In a job of Slurm:

        srun --ntasks-per-node=1 nbray symmetric-run -- python program.py
    """
    with _clear_errors():
        place = _place(address, min_nodes, options.pop("interface"), patience)
    signals = _Signals()
    for number in (*_ENDS, *NOTICES):
        signal.signal(number, signals.handle)
    if place.is_head:
        code = _Head(place, options, signals).run(command)
    else:
        code = _Other(place, options, signals).run()
    sys.exit(code)


@contextmanager
def _clear_errors() -> Iterator[None]:
    try:
        yield
    except (NotInStepError, OSError, ValueError) as error:
        raise CliError(str(error)) from error


@dataclass(frozen=True)
class _Place:
    """This machine among the others.

    Attributes:
        is_head: the command runs here.
        host: the address to listen on; None: the one from which the head is reached.
        address: of the GCS; its port is 0 if the head is to take any.
        nodes: how many there have to be.
        hosts: those that Slurm names; none if it was not asked.
        meeting: where the head's address is told; None if everybody knows it.
        patience_s: how long to wait for others.
    """

    is_head: bool
    host: str | None
    address: str
    nodes: int
    hosts: Sequence[str]
    meeting: MeetingPoint | None
    patience_s: float


def _place(
    address: str | None, nodes: int | None, interface: str | None, patience_s: float
) -> _Place:
    host = None if interface is None else interface_address(interface)
    if address is not None:
        name, port = split(address)
        if not port:
            raise ValueError(f"--address {address}: all machines must know the port; 0 is none.")
        is_head = is_of_this_machine(name) and _local_number() == 0
        if is_loopback(name) and (nodes or 1) > 1:
            raise ValueError(f"--address {address}: other machines cannot reach that.")
        if is_head:
            host = socket.getaddrinfo(name, port)[0][4][0]  # type: ignore[assignment]
        return _Place(is_head, host, address, nodes or 1, (), None, patience_s)
    if not is_in_job(os.environ):
        raise ValueError("Give --address HOST:PORT, or run it by srun in a job of Slurm.")
    step = find_step(os.environ)
    is_head = step.rank == 0
    return _Place(
        is_head, host or (_reached_by(step) if is_head else None), "", nodes or step.tasks,
        step.hosts, MeetingPoint(step.key), patience_s,
    )  # fmt: skip


def _local_number() -> int:
    text = os.environ.get("SLURM_LOCALID", "0")
    return int(text) if text.isdigit() else 0


def _reached_by(step: Step) -> str:
    """The address of this machine that the other hosts of a step reach."""
    if len(step.hosts) == 1:
        return "127.0.0.1"
    for other in [*step.hosts[1:3], step.launch_host]:
        with suppress(OSError, ValueError):  # not every site's names are known to its nodes
            found = own_address(joined(other, 9))
            if not is_loopback(found):
                return found
    with suppress(OSError):
        return own_address("192.0.2.1:9")  # nobody: the way out of this machine
    raise ValueError(
        "It is not clear by which address other hosts reach this one: give --interface NAME."
    )


class _Signals:
    """Signals of the job: noted, or passed on to the command that runs."""

    def __init__(self) -> None:
        self.command: subprocess.Popen[bytes] | None = None
        self.ended_by = 0
        self.end = threading.Event()
        self.notices: list[tuple[int, bool]] = []

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """What a signal does."""
        command = self.command
        runs = command is not None and command.returncode is None
        if number in NOTICES:
            passed_on = runs and command is not None and _catches(command.pid, number)
            self.notices.append((number, passed_on))
        else:
            self.ended_by = number
            self.end.set()
            # A terminal has sent it to the command, too.
            passed_on = runs and not (number == signal.SIGINT and _comes_from_terminal())
        if passed_on and command is not None:
            command.send_signal(number)

    def interrupted(self, what: str) -> Exit:
        """The end of one that waited for something; it is said here."""
        name = signal.Signals(self.ended_by).name
        say(f"Error: {name}, while waiting for {what}: the node here was ended.", err=True)
        return Exit(128 + self.ended_by)


def _notice(number: int, passed_on: bool) -> str:
    name = signal.Signals(number).name
    if passed_on:
        return f"{name}: the job is about to end; it was passed on to the command."
    return f"{name}: the job is about to end; the command does not listen to it so far."


def _comes_from_terminal() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, so that it does not end by it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    mask = next((line.split()[1] for line in status.splitlines() if line[:7] == "SigCgt:"), "0")
    return bool(int(mask, 16) >> (number - 1) & 1)


def _start(
    options: dict[str, Any], *, host: str | None, port: int = 0, address: str | None = None
) -> RunningNode:
    """A head, or a node that joins the cluster at ``address``; it ends with this process."""
    with notices_wait():
        return start_node(
            None, head=address is None, address=address, node_ip_address=host, port=port,
            interface=None, block=True, session=None, autoscaling_config=None,
            for_programs=False, **options,
        )  # fmt: skip


class _Head:
    """The machine on which the command runs."""

    def __init__(self, place: _Place, options: dict[str, Any], signals: _Signals) -> None:
        self._place = place
        self._options = options
        self._signals = signals

    def run(self, command: Sequence[str]) -> int:
        """Start the cluster, run the command in it, end it; returns the exit code."""
        place = self._place
        port = split(place.address)[1] if place.address else 0
        try:
            node = _start(self._options, host=place.host, port=port)
        except click.ClickException:
            if place.meeting is not None:
                with suppress(OSError):
                    place.meeting.give_up()
            raise
        try:
            with _Cluster(node) as cluster:
                if place.meeting is not None:
                    with _clear_errors():
                        place.meeting.tell(node.gcs_address)
                try:
                    self._wait_for_others(cluster)
                    code = self._carry_out(command, node) if command else 0
                finally:
                    if place.meeting is not None:
                        place.meeting.forget()
                    if not self._signals.end.is_set():  # else Slurm ends the others, too
                        cluster.end(node.node_id)
        finally:
            node.stop()
        return code

    def _wait_for_others(self, cluster: _Cluster) -> None:
        wanted, told = self._place.nodes, 0
        deadline = time.monotonic() + self._place.patience_s
        while len(there := cluster.nodes()) < wanted:
            if self._signals.end.wait(_LOOK_S):
                raise self._signals.interrupted("the other nodes")
            if time.monotonic() > deadline:
                raise CliError(self._missing(there))
            if len(there) != told:
                told = len(there)
                say(f"{told} of {wanted} nodes are there.", err=True)
        say(f"Cluster {cluster.address} with {len(there)} node(s).", err=True)

    def _missing(self, there: Sequence[NodeState]) -> str:
        place = self._place
        text = (
            f"After {place.patience_s:g} s {len(there)} of {place.nodes} nodes are there: "
            f"{', '.join(node.hostname for node in there)}."
        )
        if place.hosts:
            text += f" Slurm gave {', '.join(place.hosts)}. What the others say stands above, or "
            text += "in the output of their tasks."
        return text + " --wait SECONDS waits longer."

    def _carry_out(self, command: Sequence[str], node: RunningNode) -> int:
        signals = self._signals
        if signals.end.is_set():
            return 128 + signals.ended_by
        environment = os.environ | {"NBRAY_ADDRESS": node.gcs_address}
        try:
            process = subprocess.Popen(command, env=environment)
        except OSError as error:
            raise CliError(f"{command[0]} cannot be run: {error.strerror}") from error
        signals.command = process
        if signals.end.is_set():  # it came in between
            process.send_signal(signals.ended_by)
        code = None
        unheard: set[int] = set()
        while code is None:
            with suppress(subprocess.TimeoutExpired):
                code = process.wait(_LOOK_S)
            while signals.notices:
                number, passed_on = signals.notices.pop(0)
                say(_notice(number, passed_on), err=True)
                if not passed_on:
                    unheard.add(number)
            for number in [number for number in unheard if _catches(process.pid, number)]:
                unheard.remove(number)
                process.send_signal(number)
                say(_notice(number, passed_on=True), err=True)
        return code if code >= 0 else 128 - code


class _Other:
    """A machine that gives the cluster a node."""

    def __init__(self, place: _Place, options: dict[str, Any], signals: _Signals) -> None:
        self._place = place
        self._options = options
        self._signals = signals

    def run(self) -> int:
        """Start the node and stay until the head says that it is over; returns the exit code."""
        address = self._find_head()
        node = _start(self._options, host=self._place.host, address=address)
        try:
            with _Cluster(node) as cluster:
                return self._stay(node, cluster)
        finally:
            node.stop()

    def _find_head(self) -> str:
        place = self._place
        deadline = time.monotonic() + place.patience_s
        while True:
            with _clear_errors():
                found = place.address if place.meeting is None else place.meeting.ask()
            if found and _listens(found):
                return found
            if place.meeting is not None and not found and place.meeting.was_given_up:
                raise CliError(
                    f"The head on {place.hosts[0]} did not start: its task says why, above or in "
                    "its output."
                )
            if self._signals.end.wait(_LOOK_S):
                raise self._signals.interrupted("the head")
            if time.monotonic() > deadline:
                raise CliError(self._no_head(found))

    def _no_head(self, found: str) -> str:
        place = self._place
        if found:
            return f"Nobody listens at {found} after {place.patience_s:g} s."
        assert place.meeting is not None
        return (
            f"The head on {place.hosts[0]} has not written {place.meeting.path} within "
            f"{place.patience_s:g} s. What it says stands in the output of its task; if the hosts "
            "do not share this folder, name the head by --address HOST:PORT."
        )

    def _stay(self, node: RunningNode, cluster: _Cluster) -> int:
        raylet = psutil.Process(node.children[-1].pid)
        drain = Drain(node, partial(say, err=True))
        while not self._signals.end.wait(_ASK_S):
            if cluster.is_over():
                return 0
            if self._signals.notices and drain.ask(self._signals.notices[-1][0]):
                self._signals.notices.clear()
            if raylet.status() == psutil.STATUS_ZOMBIE:
                if reason := was_drained(node):
                    say(f"The node was drained, and has left: {reason}.", err=True)
                    return 0
                log = node.session.log_path("raylet.log").read_text(errors="replace")
                raise CliError(
                    f"The node on {socket.gethostname()} ended before the head said that it is "
                    f"over. The end of its log:\n{log[-2000:].strip() or '(it is empty)'}"
                )
        return 128 + self._signals.ended_by


def _listens(address: str) -> bool:
    try:
        with socket.create_connection(split(address), timeout=1.0):
            return True
    except OSError:
        return False


class _Cluster:
    """What is asked of the GCS, and said to it, from a thread without an event loop."""

    def __init__(self, node: RunningNode) -> None:
        read_identity(node.session)
        self.address = node.gcs_address
        self._token = node.session.token
        self._near = node.session.calls_path(GCS)
        self._runner = asyncio.Runner()

    def __enter__(self) -> _Cluster:
        self._client = self._runner.run(self._connect())
        return self

    def __exit__(self, *_exc: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _connect(self) -> GrpcClient:
        return GrpcClient(self.address, self._token, near=self._near)

    def nodes(self) -> list[NodeState]:
        """Those that live; none while the GCS does not answer."""
        try:
            query = queries.NODES
            body = self._runner.run(self._client.call_raw(query.method, query.body, _TELL_S))
        except RpcError:
            return []
        return [node for node in query.read(body) if node.state == "ALIVE"]

    def is_over(self) -> bool:
        """Whether the head has said so."""
        key = KvKey(_SPACE, _OVER)
        with suppress(RpcError):  # the raylet leaves when the GCS stays away
            return bool(self._runner.run(self._client.call("KvExists", key, KvCount, 5.0)).count)
        return False

    def end(self, head: str) -> None:
        """Say that it is over, and wait until all nodes but the head have left."""
        try:
            said = KvPut(_SPACE, _OVER, b"1")
            self._runner.run(self._client.call("KvPut", said, KvCount, _TELL_S))
        except RpcError as error:
            say(f"The other nodes were not told that it is over: {error}", err=True)
            return
        deadline = time.monotonic() + _OTHERS_LEAVE_S
        while time.monotonic() < deadline:
            if not [node for node in self.nodes() if node.node_id != head]:
                return
            time.sleep(_LOOK_S)
