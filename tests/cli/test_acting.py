"""The small commands on a cluster: what they find, what they end, what they say."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import nbray
from nbray.cli import main
from nbray.cli.stack import debugged_at
from nbray.testing import wait_until
from nbray.util.state import list_actors


def run(*words: str) -> Result:
    return CliRunner().invoke(main, list(words))


@nbray.remote
class Sleeper:
    def sleep_for_long(self) -> None:
        time.sleep(300)

    def here(self) -> int:
        return os.getpid()


def _state(actor_id: str) -> str:
    return next(row.state for row in list_actors() if row.actor_id == actor_id)


def test_an_actor_is_ended_by_its_name_or_as_far_as_its_id_is_written(cluster: Path) -> None:
    handles = [Sleeper.options(name=name).remote() for name in ("first", "second")]
    nbray.get([handle.here.remote() for handle in handles], timeout=60)
    ids = {row.name: row.actor_id for row in list_actors()}
    ended = run("kill-actor", "first", "--force")
    assert ended.exit_code == 0 and "first of class Sleeper ends" in ended.output
    assert run("kill-actor", ids["second"][:10]).exit_code == 0
    wait_until(lambda: {_state(ids[name]) for name in ids} == {"DEAD"}, "both to be dead")
    again = run("kill-actor", "first")
    assert again.exit_code == 1 and "No actor that lives has the name or id" in again.output


def test_health_token_stack_and_totals(
    cluster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "healthy: 1 node alive" in run("health-check").output
    unhealthy = run("health-check", "--address", "127.0.0.1:1")
    assert unhealthy.exit_code == 1 and "Error" in unhealthy.output
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "--generate makes one" in run("get-auth-token").output
    token = run("get-auth-token", "--generate").output.strip()
    assert len(token) == 64 and run("get-auth-token").output.strip() == token
    handle = Sleeper.options(name="sleepy", runtime_env={"env_vars": {"A": "b"}}).remote()
    pid = nbray.get(handle.here.remote(), timeout=60)
    handle.sleep_for_long.remote()
    wait_until(lambda: "sleep_for_long" in run("stack", "sleepy").output, "it to sleep")
    assert f"pid {pid} " in run("stack", str(pid)).output
    assert "No task stands in a debugger." in run("debug").output
    assert "1 actor: 1 ALIVE." in run("list", "actors").output
    envs = run("list", "runtime-envs").output
    assert "1 runtime environment." in envs and "'A': 'b'" in envs
    assert "CPU 2.0" in run("list", "nodes").output
    assert "null" not in run("get", "actors", list_actors()[0].actor_id).output


def test_a_frame_below_a_debuggers_is_where_it_has_stopped() -> None:
    stopped = "MainThread;main (/x/worker.py:1);f (/home/a/train.py:7);dispatch (/lib/bdb.py:90)"
    assert debugged_at(stopped + ";readline (/x/remote_pdb.py:3)") == "f (/home/a/train.py:7)"
    assert debugged_at("MainThread;main (/x/worker.py:1);f (/home/a/mypdb.py:7)") == ""
    assert debugged_at("MainThread") == ""
