"""What runs an entrypoint, by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.processes import have_ended

from nbray.jobs import keeper

# As below sudo: one of its processes is root's, and it is not itself.
_AS_NOBODY = f"""
import __future__, contextlib, ctypes, json, os, select, signal, subprocess, sys, time, typing
code = open({keeper.__file__!r}).read()
print("others", subprocess.Popen(["sleep", "300"], stdout=2).pid, flush=True)
os.setgid(65534)
os.setuid(65534)
exec(compile(code, "keeper", "exec"), {{"__name__": "__main__"}})
"""


def test_a_process_of_another_user_below_a_job_is_not_the_jobs_failure() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may be another user")
    answers, said = os.pipe()
    order = {"entrypoint": "sleep 300 >/dev/null 2>&1 & echo own $!", "stop_wait_s": 0.5}
    with subprocess.Popen(
        [sys.executable, "-c", _AS_NOBODY, str(said)], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[said], text=True,
    ) as process:  # fmt: skip
        os.close(said)
        assert process.stdin is not None and process.stdout is not None
        others = int(process.stdout.readline().split()[1])
        try:
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
            with open(answers) as file:
                known = {key: value for line in file for key, value in json.loads(line).items()}
        finally:
            os.kill(others, 9)
        printed = process.stdout.read()
    assert known.get("exit") == 0, (known, printed)
    assert have_ended([int(printed.split()[1])]), "what it could end, it has"
