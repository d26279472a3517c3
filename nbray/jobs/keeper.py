"""Runs one entrypoint and ends what it leaves: ``python -I -S keeper.py DESCRIPTOR``.

It is the ancestor of all that the entrypoint starts, also of daemons, since what loses its parent
becomes a child of this process (PR_SET_CHILD_SUBREAPER). So nothing of a job outlives it: when the
entrypoint has ended, when it is told to stop, and when its supervisor ends, however that was,
which it learns from the end of its stdin.

On stdin come lines of JSON: first what to run, then ``{"stop": "SIGTERM"}``. It answers on the
descriptor that it is given: ``{"pid": N}``, ``{"error": ...}`` and at the end ``{"exit": N}``.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

_SUBREAPER = 36
_DEATH_SIGNAL = 1
_LOOK_S = 0.05


def _children() -> list[int]:
    """All processes below this one."""
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has just ended
        if fields[0] != b"Z":
            below.setdefault(int(fields[1]), []).append(int(name))
    found, left = [], [os.getpid()]
    while left:
        for pid in below.get(left.pop(), ()):
            found.append(pid)
            left.append(pid)
    return found


def _send(number: int) -> bool:
    """Send a signal to all processes below this one; whether there was any that can be told."""
    told = False
    for pid in _children():
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            told = True  # it has just ended, and what it started is seen at the next look
        except PermissionError:
            continue  # another user's, as what sudo runs: it is not ours to end
        else:
            told = True
    return told


def _say(what: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # the supervisor has gone
        os.write(int(sys.argv[1]), json.dumps(what).encode() + b"\n")


class _Keeper:
    """The entrypoint, and whether it is to end."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._patience_s = float(order["stop_wait_s"])
        libc = ctypes.CDLL(None)
        libc.prctl(_SUBREAPER, 1, 0, 0, 0)
        self._process = subprocess.Popen(
            order["entrypoint"], shell=True, start_new_session=True, stdin=subprocess.DEVNULL,
            preexec_fn=lambda: libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0),
        )  # fmt: skip
        self.code: int | None = None
        _say({"pid": self._process.pid})

    def reap(self) -> None:
        """Take what has ended off the system's hands."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._process.pid:
                self.code = os.waitstatus_to_exitcode(status)

    def end(self, number: int) -> None:
        """End everything, by that signal, and what does not heed it by SIGKILL."""
        deadline = time.monotonic() + self._patience_s
        while _send(number):
            until = time.monotonic() + _LOOK_S
            while time.monotonic() < until:
                self.reap()
                time.sleep(_LOOK_S / 5)
            number = signal.SIGKILL if time.monotonic() >= deadline else 0
        self.reap()


def _told_to_stop(said: bytes) -> int:
    """The signal by which the job is to end, once a whole line says so; 0 before."""
    line, mark, _ = said.partition(b"\n")
    return int(getattr(signal, json.loads(line)["stop"])) if mark else 0


def main() -> None:
    """See the head of this file."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    said = b""
    while b"\n" not in said:
        part = os.read(0, 65536)
        if not part:
            return
        said += part
    line, _, said = said.partition(b"\n")
    try:
        keeper = _Keeper(json.loads(line))
    except (OSError, ValueError) as error:
        _say({"error": f"{type(error).__name__}: {error}"})
        return
    number = _told_to_stop(said)
    while keeper.code is None and not number:
        ready, _, _ = select.select([0, wake_read], [], [])
        if wake_read in ready:
            os.read(wake_read, 4096)
            keeper.reap()
        if 0 in ready:
            part = os.read(0, 65536)
            said += part
            number = _told_to_stop(said) if part else signal.SIGTERM
    keeper.end(number or signal.SIGTERM)
    _say({"exit": keeper.code})


if __name__ == "__main__":
    main()
