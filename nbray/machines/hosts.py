"""One machine of a cluster, and what can be done on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nbray.machines import scripts
from nbray.machines.containers import Container
from nbray.machines.found import Found, in_container, question, read
from nbray.machines.mounts import ends, rsync_command
from nbray.machines.plan import Machine
from nbray.machines.ssh import CONNECT_S, Done, Ssh, run

_ANSWER_S = CONNECT_S + 15.0
_STOP_S = 60.0
_WAIT_FOR_OTHERS_S = 30
_INTERRUPT_S = 5.0


class HostError(Exception):
    """Something failed on a host.

    Attributes:
        doing: what was done.
        command: what was run, empty where ssh itself is meant.
        why: in a line or two.
        lines: the last ones that were written there.
    """

    def __init__(self, doing: str, why: str, command: str = "", lines: Sequence[str] = ()) -> None:
        super().__init__(f"{doing}: {why}")
        self.doing = doing
        self.why = why
        self.command = command
        self.lines = tuple(lines)


@dataclass
class Host:
    """A machine, reached by ssh.

    Attributes:
        machine: it.
        ssh: how it is reached.
        cluster: the cluster's name.
        container: in which its node runs; None on the host itself.
        login_shells: whether commands run with the user's start-up files.
        on_line: is given each line that is written there.
    """

    machine: Machine
    ssh: Ssh
    cluster: str
    container: Container | None = None
    login_shells: bool = True
    on_line: Callable[[str], None] = field(default=lambda _line: None)

    @property
    def record_path(self) -> str:
        """Its record, from the home of its user."""
        return scripts.record_path(self.cluster, self.machine.name)

    @property
    def record(self) -> str:
        """The same, as a word of a shell there."""
        return scripts.remote_path(self.record_path)

    async def ask(self) -> Found:
        """What it has of the cluster."""
        if self.container is None:
            text = question(self.record)
        else:
            text = in_container(self.container.name, self.container.tool, self.record)
        try:
            done = await self._ssh(text, timeout_s=_ANSWER_S, quiet=True)
        except TimeoutError:
            with suppress(TimeoutError):  # perhaps a shared connection to what is no more
                await run(self.ssh.end_connection(self.machine.target), timeout_s=_INTERRUPT_S)
            return Found(error=f"it does not answer within {_ANSWER_S:.0f} s")
        explained = self.ssh.explain(self.machine.target, done)
        if explained:
            return Found(error=explained)
        return read(done.output, self.machine.is_head)

    async def do(
        self, doing: str, text: str, *, stdin: bytes = b"", inside: bool = True,
        timeout_s: float | None = None,
    ) -> str:  # fmt: skip
        """Run a text of our own for POSIX sh where the node runs; what it wrote.

        Args:
            doing: what this is, for people.
            text: what is run.
            stdin: what it reads.
            inside: in the container, if there is one.
            timeout_s: how long it may take.

        Raises:
            HostError: it failed, or took longer.
        """
        if inside and self.container is not None:
            text = self.container.inside(text)
        try:
            done = await self._ssh(text, stdin=stdin, timeout_s=timeout_s)
        except TimeoutError:
            raise HostError(doing, f"it was not done in {timeout_s:.0f} s") from None
        self._check(done, doing)
        return done.output

    async def command(
        self, doing: str, command: str, exports: Mapping[str, str], *, inside: bool = True,
        may_be_cut: bool = True,
    ) -> None:  # fmt: skip
        """Run a command of the file, as the only one at work there.

        Args:
            doing: what this is, for people.
            command: what the file says.
            exports: variables, as words of a shell.
            inside: in the container, if there is one.
            may_be_cut: it is ended there when this is cancelled.

        Raises:
            HostError: it failed.
        """
        text = scripts.as_user(command, login=self.login_shells, exports=exports)
        text = scripts.alone(self.record, text, _WAIT_FOR_OTHERS_S)
        if inside and self.container is not None:
            text = self.container.inside(text)
        try:
            done = await self._ssh(text)
        except asyncio.CancelledError:
            if may_be_cut:
                with suppress(TimeoutError):
                    await self._ssh(scripts.interrupt(self.record), timeout_s=_INTERRUPT_S)
            raise
        if done.code == scripts.BUSY:
            raise HostError(
                doing, f"another command of cluster {self.cluster} has been at work there for "
                f"{_WAIT_FOR_OTHERS_S} s", command, done.lines,
            )  # fmt: skip
        self._check(done, doing, command)

    async def copy(
        self, mounts: Mapping[str, str], exclude: Sequence[str], filters: Sequence[str]
    ) -> None:
        """Copy files to the host, or into the folders that its container mounts.

        Raises:
            HostError: it failed.
        """
        if not mounts:
            return
        if self.container is not None:
            mounts = {self.container.staged(self.record_path, to): of for to, of in mounts.items()}
        await self.do(
            "making folders", scripts.make_parents(list(mounts)), inside=False, timeout_s=_STOP_S
        )
        for remote, local in mounts.items():
            there, here = ends(remote, local)
            await self.rsync(here, self.at(there), exclude, filters)

    async def rsync(
        self, source: str, target: str, exclude: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        """Copy; one of the two is what `at` makes.

        Raises:
            HostError: it failed.
        """
        command = rsync_command(self.ssh.rsh(), source, target, exclude, filters)
        try:
            done = await run(command, on_line=self.on_line)
        except FileNotFoundError:
            raise HostError("copying files", "this machine has no rsync: install it") from None
        if done.code and any("rsync: command not found" in line for line in done.lines):
            raise HostError("copying files", "that machine has no rsync: install it there")
        self._check(done, f"copying {source} to {target}", "rsync")

    def at(self, path: str) -> str:
        """A path there, for rsync."""
        host = self.machine.target.strip("[]")
        named = f"[{host}]" if ":" in host else host
        return f"{named}:{path.removeprefix('~/') or '.'}"

    async def stop(self, *, forget: bool) -> None:
        """End its node, or its container with all that is in it.

        Args:
            forget: what was copied and set up is forgotten, too.

        Raises:
            HostError: it failed; nothing is forgotten then.
        """
        if self.container is None:
            text = scripts.stop_node(self.record, forget=forget)
            await self.do("ending its node", text, timeout_s=_STOP_S)
            return
        gone = f'\nrm -rf {self.record}; rmdir "$(dirname {self.record})" 2>/dev/null; exit 0'
        text = self.container.remove() + (gone if forget else "")
        await self.do("ending its container", text, inside=False, timeout_s=_STOP_S)

    def write_log(self, path: Path) -> None:
        """From now on, keep in ``path`` what is written there, beside showing it."""
        shown, file = self.on_line, open(path, "w", buffering=1)  # noqa: SIM115 - as long as self

        def both(line: str) -> None:
            file.write(line + "\n")
            shown(line)

        self.on_line = both

    async def _ssh(
        self, text: str, *, stdin: bytes = b"", timeout_s: float | None = None, quiet: bool = False
    ) -> Done:
        command = self.ssh.command(self.machine.target, text)
        shown: Callable[[str], None] = (lambda _line: None) if quiet else self.on_line
        return await run(command, stdin=stdin, timeout_s=timeout_s, on_line=shown)

    def _check(self, done: Done, doing: str, command: str = "") -> None:
        if not done.code:
            return
        why = self.ssh.explain(self.machine.target, done)
        if any("nbray: command not found" in line for line in done.lines):
            why = "its shell finds no nbray: have setup_commands install it, or ~/.bashrc name it"
        raise HostError(doing, why or f"exit code {done.code}", command, done.lines)
