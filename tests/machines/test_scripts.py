"""The texts that hosts run, run by the shell of this machine."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nbray.machines.scripts import alone, as_user, interrupt
from nbray.testing import wait_until


@pytest.mark.parametrize("login", [False, True], ids=["plain", "login"])
@pytest.mark.parametrize(
    "waited_for", ["sleep 60", "nohup sleep 60", "(sleep 60)", "sleep 60 | cat"]
)
def test_what_is_interrupted_does_not_go_on_with_its_next_command(
    tmp_path: Path, waited_for: str, login: bool
) -> None:
    for number in range(12):
        began, went_on = tmp_path / f"began{number}", tmp_path / f"went-on{number}"
        command = f"touch {began}; {waited_for}; touch {went_on}"
        text = alone(f"{tmp_path}/record", as_user(command, login=login, exports={}), 10)
        with subprocess.Popen(
            ["sh", "-c", text], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True, env=os.environ | {"HOME": str(tmp_path)},
        ) as running:  # fmt: skip
            wait_until(began.exists, "the command")
            subprocess.run(["sh", "-c", interrupt(f"{tmp_path}/record")], check=True, timeout=60)
            running.wait(30)
            wait_until(lambda: not members(running.pid), "the end of all that it started")
        assert not went_on.exists()


def members(group: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found
