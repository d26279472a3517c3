"""The system's ssh: its command lines, and running them while every line is seen."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nbray.machines.cluster_file import Auth
from nbray.machines.scripts import for_any_shell

CONNECT_S = 10
_TAIL = 20
MOST_KEPT = 1 << 20
_LINE_ENDS = re.compile(rb"[\r\n]+")
_SSH_FAILED = 255
_TURNED_AWAY = re.compile(
    "kex_exchange_identification: (read: Connection reset|Connection closed)|"
    "Connection (closed|reset) by .* port |Exceeded MaxStartups|Not allowed at this time"
)


@dataclass(frozen=True)
class Done:
    """A command that ended: its exit code, its last lines, and all that it wrote, up to a limit."""

    code: int
    lines: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Ssh:
    """How the machines of a cluster are reached.

    Attributes:
        auth: as the file says.
        known_hosts: where keys of new hosts are kept.
        control: the folder of the sockets of shared connections.
    """

    auth: Auth
    known_hosts: Path
    control: Path

    def options(self, *, batch: bool = True) -> list[str]:
        """The options of every connection."""
        auth = self.auth
        if auth.known_hosts is not None:
            keys = [f"UserKnownHostsFile={_quoted(auth.known_hosts)}", "StrictHostKeyChecking=yes"]
        else:
            files = f"{_quoted(str(self.known_hosts))} ~/.ssh/known_hosts"
            keys = [f"UserKnownHostsFile={files}", "StrictHostKeyChecking=accept-new"]
        said = [
            *keys, f"ConnectTimeout={CONNECT_S}", "ServerAliveInterval=5", "ServerAliveCountMax=3",
            "ForwardAgent=no", "LogLevel=ERROR", "ControlMaster=auto",
            f'ControlPath="{_escaped(str(self.control))}/%C"', "ControlPersist=60",
        ]  # fmt: skip
        if batch:
            said.append("BatchMode=yes")
        if auth.ssh_private_key is not None:
            said.append("IdentitiesOnly=yes")
        if auth.ssh_proxy_command:
            said.append(f"ProxyCommand={auth.ssh_proxy_command}")
        options = [word for option in said for word in ("-o", option)]
        if auth.ssh_config is not None:
            options += ["-F", os.path.expanduser(auth.ssh_config)]
        if auth.ssh_private_key is not None:
            options += ["-i", os.path.expanduser(auth.ssh_private_key)]
        if auth.ssh_port is not None:
            options += ["-p", str(auth.ssh_port)]
        if auth.ssh_user:
            options += ["-l", auth.ssh_user]
        return options

    def command(self, host: str, text: str, *, tty: bool = False) -> list[str]:
        """Run a text for POSIX sh on ``host``."""
        flags = ["-tt"] if tty else ["-T"]
        options = self.options(batch=not tty)
        return ["ssh", *flags, *options, "--", _bare(host), for_any_shell(text)]

    def forward(
        self, host: str, text: str, ports: Sequence[tuple[int, str]], tty: bool
    ) -> list[str]:
        """The same, while ports of this machine lead to addresses that ``host`` reaches.

        It has a connection of its own: a port belongs to it, and ends with it.
        """
        forwards = [word for here, there in ports for word in ("-L", f"localhost:{here}:{there}")]
        own = ["-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"]
        flags = ["-tt"] if tty else ["-T"]
        return [
            "ssh", *flags, *own, *forwards, *self.options(batch=not tty), "--", _bare(host),
            for_any_shell(text),
        ]  # fmt: skip

    def at(self, host: str, path: str) -> str:
        """A path there, for rsync."""
        bare = _bare(host)
        named = f"[{bare}]" if ":" in bare else bare
        return f"{named}:{path.removeprefix('~/') or '.'}"

    def rsh(self) -> str:
        """The remote shell for rsync."""
        return shlex.join(["ssh", *self.options()])

    def end_connection(self, host: str) -> list[str]:
        """The command that ends the shared connection of a host."""
        return ["ssh", *self.options(), "-O", "exit", "--", _bare(host)]

    def was_turned_away(self, done: Done) -> bool:
        """Whether an sshd had too many logins at once, so that nothing was run."""
        said = "\n".join(done.lines)
        return done.code == _SSH_FAILED and _TURNED_AWAY.search(said) is not None

    def explain(self, host: str, done: Done) -> str:
        """What is wrong when ssh itself failed, and what to do; empty if the command did."""
        if done.code != _SSH_FAILED:
            return ""
        said = "\n".join(done.lines)
        name = f"[{_bare(host)}]:{self.auth.ssh_port}" if self.auth.ssh_port else _bare(host)
        file = self.auth.known_hosts or self.known_hosts
        if "IDENTIFICATION HAS CHANGED" in said:
            return (
                f"its host key has changed: another machine answers at {host}, or it was installed "
                f"anew. If so, forget the old key (ssh-keygen -f {file} -R '{name}', or the file "
                "that ssh names)."
            )
        if "Host key verification failed" in said or "host key is known" in said:
            return f"its host key is not in {file}, which auth.known_hosts names."
        if "Permission denied" in said:
            key = self.auth.ssh_private_key or "a key of your agent or of ~/.ssh"
            user = self.auth.ssh_user or "you"
            return f"it lets {user} not in with {key} (auth.ssh_user, auth.ssh_private_key)."
        return f"ssh does not reach it: {done.lines[-1] if done.lines else 'it said nothing'}"


def _bare(host: str) -> str:
    return host.strip("[]")


def _quoted(path: str) -> str:
    """A path in an option of ssh, which splits at spaces."""
    return f'"{_escaped(os.path.expanduser(path))}"'


def _escaped(path: str) -> str:
    """A path where ssh expands %."""
    return path.replace("%", "%%")


async def run(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    on_line: Callable[[str], None] = lambda _line: None,
    timeout_s: float | None = None,
    most_kept: int = MOST_KEPT,
) -> Done:
    """Run a command; its output and its errors are one stream of lines.

    A command that is still running when this is cancelled, or late, is killed. Of its output, the
    first ``most_kept`` bytes are kept.

    Raises:
        TimeoutError: it took longer than ``timeout_s`` seconds.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    output = _Output(on_line, most_kept)
    assert process.stdout is not None
    reader = asyncio.create_task(output.read(process.stdout))
    try:
        async with asyncio.timeout(timeout_s):
            assert process.stdin is not None
            with suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(stdin)
                await process.stdin.drain()
            process.stdin.close()
            code = await process.wait()
            # A shared connection of an older ssh stays behind with our pipe in its hands.
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reader), 1.0)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()  # it alone: the shared connection serves on
            # That one has our pipe until the command has ended there, and `wait` waits for pipes;
            # asyncio has no other way to let go of them.
            process._transport.close()  # type: ignore[attr-defined]
        reader.cancel()
    return Done(code, tuple(output.tail), output.text())


class _Output:
    """What a command writes: lines as they come, the last ones, and all up to a limit."""

    def __init__(self, on_line: Callable[[str], None], most_kept: int) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._on_line = on_line
        self._most_kept = most_kept
        self._kept = bytearray()
        self._rest = b""

    def text(self) -> str:
        return self._kept.decode(errors="replace")

    async def read(self, stream: asyncio.StreamReader) -> None:
        while part := await stream.read(65536):
            self._kept += part[: max(0, self._most_kept - len(self._kept))]
            *lines, self._rest = _LINE_ENDS.split(self._rest + part)
            self._rest = self._rest[-65536:]
            for line in lines:
                self._take(line)
        self._take(self._rest)

    def _take(self, line: bytes) -> None:
        if line.strip():
            text = line.decode(errors="replace")
            self.tail.append(text)
            self._on_line(text)
