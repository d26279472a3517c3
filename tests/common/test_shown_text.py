"""What users name can neither steer a terminal nor look like another line; JSON has it as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from support.commands import command

import nbray
from nbray.cli import main
from nbray.common.text import as_name, check_text, coloured, one_line, printable
from nbray.gcs.storage import StorageError, open_store
from nbray.jupyter_ext.pictures.tables import Table
from nbray.testing import wait_until
from nbray.util.placement_group import placement_group
from nbray.util.state import list_actors, list_demand, list_failures, list_tasks

EVIL = "evil\x1b]0;title\x07\x1b[2J\x1b[31mred\x1b[0m\n  None.\r FAKE \x9b2J \u202e \u2028 end"
HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)

any_text = st.text(st.characters(), max_size=30)


@given(any_text)
def test_a_line_has_only_what_can_be_seen_and_stays_one(text: str) -> None:
    shown = one_line(text)
    assert not HIDDEN.search(shown) and "\n" not in shown and len(shown.splitlines()) <= 1
    shown.encode()
    assert not HIDDEN.search(printable(text))
    assert printable(text).count("\n") == text.count("\n")
    assert one_line(shown) == shown
    if text.isprintable():
        assert one_line(text) == text


@given(any_text, st.sampled_from(["0", "31", "1;38;5;7"]))
def test_a_log_keeps_its_colours_and_nothing_else(text: str, colour: str) -> None:
    shown = coloured(f"\x1b[{colour}m{text}\x1b[0m")
    assert shown.startswith(f"\x1b[{colour}m") and shown.endswith("\x1b[0m")
    assert not HIDDEN.search(re.sub(r"\x1b\[[0-9;]*m", "", shown).replace("\r", ""))


@given(any_text)
def test_any_text_can_be_made_a_name(text: str) -> None:
    made = as_name(text)
    if made:
        assert check_text("It", made, 5000) == made


def test_nothing_that_was_named_reaches_a_terminal_or_a_notebooks_text(
    session_root: Path,
) -> None:
    nbray.init(num_cpus=2, object_store_memory=64 << 20, resources={EVIL: 1}, namespace=EVIL)

    class Base:
        def one(self) -> int:
            return 1

        def die(self) -> None:
            os._exit(1)

    actor = nbray.remote(Base).options(name=EVIL).remote()
    assert nbray.get(actor.one.remote(), timeout=30) == 1
    other = nbray.remote(type(EVIL.replace("\u2028", ""), (Base,), {})).remote()
    with pytest.raises(nbray.exceptions.ActorDiedError):
        nbray.get(other.die.remote(), timeout=30)

    @nbray.remote(max_retries=0)
    def crash() -> None:
        os._exit(1)

    with pytest.raises(nbray.exceptions.WorkerCrashedError):
        nbray.get(crash.options(name=EVIL).remote(), timeout=30)

    @nbray.remote
    def wrong() -> None:
        raise ValueError(EVIL)

    with pytest.raises(ValueError, match="evil"):
        nbray.get(wrong.options(name=EVIL).remote(), timeout=30)
    waiting = crash.options(name=EVIL, resources={f"no{EVIL}": 1}).remote()
    group = placement_group([{f"no{EVIL}": 1}], name=EVIL)
    wait_until(lambda: list_demand() and list_failures(), "the failures to be told")
    wait_until(lambda: list_tasks(filters=[("error_type", "!=", None)]), "the tasks to be told")
    kept = nbray.put("x")

    for words in (
        ["status"], ["status", "-v"], ["list", "actors"], ["list", "actors", "--detail"],
        ["list", "tasks"], ["list", "tasks", "--detail"], ["list", "nodes"], ["list", "jobs"],
        ["summary", "tasks"], ["summary", "actors"], ["memory"], ["logs"], ["get", "actors", EVIL],
    ):  # fmt: skip
        shown = CliRunner().invoke(main, words).output
        assert "evil" in shown or words[0] in ("memory", "logs") or words[1] in ("jobs",), words
        assert not HIDDEN.search(shown), (words, HIDDEN.search(shown))
        lines = [line.strip() for line in shown.splitlines()]
        assert not any(line.startswith(("None.", "FAKE")) for line in lines), words
    rows: list[dict[str, Any]] = json.loads(
        CliRunner().invoke(main, ["list", "actors", "--format", "json"]).stdout
    )
    assert EVIL in {row["name"] for row in rows}

    states = list_actors()
    table = Table(["name", "class"], [[row.name, row.class_name] for row in states], EVIL, [EVIL])
    for text in (repr(table), repr(actor), repr(other)):
        assert not HIDDEN.search(text)
    assert "evil" in repr(table) and "evil" in repr(other)
    del waiting, group, kept


def test_a_password_of_the_storage_is_taken_from_the_environment_only(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    refused = command("start", "--head", "--port=0", "--storage", "redis://u:topsecret@127.0.0.1:1")
    assert refused.returncode == 2
    assert "NBRAY_STORAGE" in refused.stderr
    monkeypatch.setenv("NBRAY_STORAGE", "redis://u:topsecret@127.0.0.1:1/0")
    failed = command("start", "--head", "--port=0", "--include-dashboard=false")
    assert failed.returncode == 1 and "127.0.0.1:1" in failed.stderr
    for said in (refused, failed):
        assert "topsecret" not in said.stdout + said.stderr
    assert not list(session_root.iterdir())


@pytest.mark.parametrize(
    "url", ["redis://u:top/secret@127.0.0.1:1", "topsecret@x", "other://u:topsecret@127.0.0.1:1"]
)
def test_no_error_has_a_part_of_a_password(url: str, tmp_path: Path) -> None:
    with pytest.raises((StorageError, ValueError)) as told:
        open_store(url, tmp_path)
    assert "secret" not in str(told.value) and "top" not in str(told.value)
    assert told.value.__cause__ is None


def test_the_storage_is_in_no_command_line_and_in_no_tasks_environment(
    session_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_STORAGE", "memory")
    monkeypatch.setenv("HOME", str(tmp_path))
    program = (
        "import nbray, os; nbray.init('auto');"
        "print(nbray.get(nbray.remote(lambda: 'NBRAY_STORAGE' in os.environ).remote(), timeout=30))"
    )
    assert command("start", "--head", "--port=0", "--num-cpus=1").returncode == 0
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
        )
        assert done.stdout == "False\n", done.stderr
    finally:
        command("stop")
