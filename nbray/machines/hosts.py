"""One machine of a cluster, and what can be done on it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbray.machines import scripts
from nbray.machines.containers import Container
from nbray.machines.found import Found, in_container, question, read
from nbray.machines.here import Here
from nbray.machines.home import busy
from nbray.machines.mounts import digest, ends, rsync_command
from nbray.machines.plan import Machine
from nbray.machines.ssh import CONNECT_S, MOST_KEPT, Done, Ssh, run

_ANSWER_S = CONNECT_S + 15.0
_STOP_S = 60.0
_JOBS_END_S = 120.0
_WAIT_FOR_OTHERS_S = 30
_INTERRUPT_S = 5.0
_MOST_SAID = 1 << 28  # of ten thousand nodes, for example
_PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)


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
    """A machine, reached by ssh, or this one.

    Attributes:
        machine: it.
        ssh: how it is reached.
        cluster: the cluster's name.
        container: in which its node runs; None on the host itself.
        login_shells: whether commands run with the user's start-up files.
        on_line: is given each line that is written there.
        slots: places for commands at once, of all hosts of the cluster together.
    """

    machine: Machine
    ssh: Ssh | Here
    cluster: str
    container: Container | None = None
    login_shells: bool = True
    on_line: Callable[[str], None] = field(default=lambda _line: None)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

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
            name, tool = self.container.name, self.container.tool
            text = in_container(self.cluster, name, tool, self.record)
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
            done = await self._ssh(text, stdin=stdin, timeout_s=timeout_s, most_kept=_MOST_SAID)
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
                end = scripts.interrupt(self.record)
                if inside and self.container is not None:
                    end = self.container.inside(end)
                with suppress(TimeoutError):
                    await self._ssh(end, timeout_s=_INTERRUPT_S)
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

    async def send(
        self, source: str, path: str, exclude: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        """Copy a file or folder of this machine to a path where the node runs.

        Raises:
            HostError: it failed.
        """
        if self.container is None:
            await self.rsync(source, self.at(path), exclude, filters)
            return
        staged = f"{self.record_path}/passing/{digest(path)}"
        if path.endswith("/") and os.path.isfile(source):
            path += os.path.basename(source)
        end = "/" if source.endswith("/") else ""
        await self.do(
            "making folders", scripts.make_parents([staged]), inside=False, timeout_s=_STOP_S
        )
        await self.rsync(source, self.at(staged + end), exclude, filters)
        taken = f"({self.container.take_in(staged, path)}); c=$?; rm -rf "
        taken += f"{scripts.remote_path(staged)}; exit $c"
        await self.do(f"copying {path} into its container", taken, inside=False)

    async def make_room(self, path: str) -> None:
        """Make the folder that a path is in.

        Raises:
            HostError: it failed.
        """
        await self.do("making folders", scripts.make_parents([path]), timeout_s=_STOP_S)

    async def bring(
        self, path: str, target: str, exclude: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        """Copy a path where the node runs to a file or folder of this machine.

        Raises:
            HostError: it failed.
        """
        if self.container is None:
            await self.rsync(self.at(path), target, exclude, filters)
            return
        staged = f"{self.record_path}/passing/{digest(path)}"
        taken = self.container.take_out(path, staged)
        await self.do(f"copying {path} out of its container", taken, inside=False)
        name = path.rstrip("/").rpartition("/")[2]
        name = "" if name == "~" else name
        end = "/" if path.endswith("/") else ""
        await self.rsync(self.at(f"{staged}/{name}{end}"), target, exclude, filters)
        await self.do("removing a copy", f"rm -rf {scripts.remote_path(staged)}", inside=False)

    @asynccontextmanager
    async def held(self, who: str) -> AsyncIterator[None]:
        """Have the cluster for this machine alone, if this host, its head, answers.

        Args:
            who: told to others who want it meanwhile.

        Raises:
            ClusterBusyError: somebody else has it; it names who.
        """
        command = self.ssh.command(self.machine.target, scripts.hold(self.cluster, who))
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            said = b""
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_S):
                    while line := await process.stdout.readline():
                        said = line.strip()
                        if said == b"held":
                            break
                    else:
                        await process.wait()
            if process.returncode == scripts.BUSY:
                raise busy(self.cluster, said.decode(errors="replace"))
            yield
        finally:
            process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(_INTERRUPT_S):
                    await process.wait()
            if process.returncode is None:
                process.kill()
            process._transport.close()  # type: ignore[attr-defined]  # as in `run`

    async def rsync(
        self, source: str, target: str, exclude: Sequence[str] = (), filters: Sequence[str] = ()
    ) -> None:
        """Copy; one of the two is what `at` makes.

        Raises:
            HostError: it failed.
        """
        command = rsync_command(self.ssh.rsh(), source, target, exclude, filters)
        try:
            async with self._slot():
                done = await run(command, on_line=self.on_line)
        except FileNotFoundError:
            raise HostError("copying files", "this machine has no rsync: install it") from None
        if done.code and any("rsync: command not found" in line for line in done.lines):
            raise HostError("copying files", "that machine has no rsync: install it there")
        self._check(done, f"copying {source} to {target}", "rsync")

    def at(self, path: str) -> str:
        """A path there, for rsync."""
        return self.ssh.at(self.machine.target, path)

    async def stop(self, *, forget: bool, jobs: bool = False, only: str = "") -> None:
        """End its node, or its container with all that is in it.

        Args:
            forget: what was copied and set up is forgotten, too.
            jobs: then cancel the cluster's jobs of Slurm.
            only: an instance; the node of another one goes on.

        Raises:
            HostError: it failed; nothing is forgotten then.
        """
        if self.container is None:
            cluster = self.cluster if jobs else ""
            text = scripts.stop_node(self.record, forget=forget, jobs_of=cluster, only=only)
            if only:  # nobody begins another one between the look and the end
                text = scripts.alone(self.record, text, _WAIT_FOR_OTHERS_S)
            text = scripts.as_user(text, login=self.login_shells, exports={}) if jobs else text
            limit = _STOP_S + _JOBS_END_S if jobs else _STOP_S
            await self.do("ending its node", text, timeout_s=limit)
            return
        if only and (await self.ask()).instance not in ("", only):
            return
        gone = f'\nrm -rf {self.record}; rmdir "$(dirname {self.record})" 2>/dev/null; exit 0'
        text = self.container.remove() + (gone if forget else "")
        await self.do("ending its container", text, inside=False, timeout_s=_STOP_S)

    def write_log(self, path: Path) -> None:
        """From now on, keep in ``path`` what is written there, beside showing it."""
        shown = self.on_line
        try:
            file = open(path, "w", buffering=1, encoding="utf-8")  # noqa: SIM115 - as long as self
        except OSError as error:
            shown(f"What is written there is not kept in {path}: {error}")
            return

        def both(line: str) -> None:
            shown(line)
            try:
                file.write(line + "\n")
            except OSError as error:  # a full disk here ends nothing there
                self.on_line = shown
                shown(f"What is written there is no longer kept in {path}: {error}")

        self.on_line = both

    async def _ssh(
        self, text: str, *, stdin: bytes = b"", timeout_s: float | None = None, quiet: bool = False,
        most_kept: int = MOST_KEPT,
    ) -> Done:  # fmt: skip
        command = self.ssh.command(self.machine.target, text)
        shown: Callable[[str], None] = (lambda _line: None) if quiet else self.on_line
        for pause_s in (*_PAUSES_S, None):
            async with self._slot():
                done = await run(
                    command, stdin=stdin, timeout_s=timeout_s, on_line=shown, most_kept=most_kept
                )
            if pause_s is None or not self.ssh.was_turned_away(done):
                break
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
        return done

    def _slot(self) -> AbstractAsyncContextManager[Any]:
        """One of the places for a command; all wait for the head, and it for nobody."""
        return nullcontext() if self.machine.is_head else self.slots

    def _check(self, done: Done, doing: str, command: str = "") -> None:
        if not done.code:
            return
        why = self.ssh.explain(self.machine.target, done)
        if any("nbray: command not found" in line for line in done.lines):
            why = "its shell finds no nbray: have setup_commands install it, or ~/.bashrc name it"
        raise HostError(doing, why or f"exit code {done.code}", command, done.lines)
