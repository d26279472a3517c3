"""``%nbray start`` takes every option of ``nbray start``, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from support.kernel import running_kernel
from support.ports import free_ports

from nbray.jupyter_ext.commands.start_options import as_init_has_them, as_words, given_options
from nbray.jupyter_ext.commands.table import COMMANDS
from nbray.options.option import Option, Scope
from nbray.options.table import options_of

_VALUES = {
    "N": "1", "BOOL": "false", "SIZE": "1GB", "JSON": '{"a":1}', "TEXT": "text",
    "HOST:PORT": "127.0.0.1:1", "LABELS": "a=b", "WORDS": "a", "LINE": "a",
}  # fmt: skip


def _given(line: str) -> dict[str, Any]:
    return given_options(COMMANDS["start"].parser().parse_line(line))


def _word(option: Option, folder: Path) -> str:
    if option.is_switch:
        return option.flag
    (folder / "file").touch()
    files = {"FOLDER": str(folder), "FILE": str(folder / "file")}
    return f"{option.flag}={({**_VALUES, **files})[option.metavar]}"


@pytest.mark.parametrize("option", options_of(Scope.START).values(), ids=lambda o: str(o.name))
def test_each_option_of_the_command_is_taken_in_a_cell_or_refused_by_its_name(
    option: Option, tmp_path: Path
) -> None:
    if option.name in ("head", "address"):
        return
    line = _word(option, tmp_path)
    if option.name in ("block", "keep_session") or option.refusal:
        if option.name == "include_log_monitor":
            line = "--include-log-monitor=false"
        with pytest.raises(UsageError, match=f"{option.flag}.*: ."):
            _given(line)
    else:
        assert list(_given(line)) == ([option.name] if option.has_effect else [])


def test_options_that_init_has_not_are_no_arguments_of_it() -> None:
    assert as_init_has_them(_given("--num-cpus 2 --memory 1GB")) == {
        "num_cpus": 2.0, "_memory": 10**9,
    }  # fmt: skip
    assert as_init_has_them(_given("--port 7000")) is None


def test_the_commands_words_say_the_same() -> None:
    options = _given("--labels a=b,c=d --include-dashboard no --num-cpus 2 --port 7000")
    words = as_words(None, options)
    assert words[:2] == ["--head", "--port=7000"]
    assert given_options(COMMANDS["start"].parser().parse_words(words)) == options
    assert as_words("h:1", {})[0] == "--address=h:1"


def test_a_password_does_not_stay_in_a_notebook_and_not_in_a_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="NBRAY_STORAGE"):
        _given("--storage redis://u:secret@host")
    monkeypatch.setenv("NBRAY_STORAGE", "redis://u:secret@host")
    assert _given("") == {"storage": "redis://u:secret@host"}
    assert not any("secret" in word for word in as_words(None, _given("--detach")))


@pytest.mark.slow
def test_a_cluster_of_a_kernel_listens_where_a_line_says_and_ends_with_it(
    session_root: Path, tmp_path: Path
) -> None:
    (tmp_path / "labels.yaml").write_text("zone: b\n")
    gcs, raylet, dashboard = free_ports(3)
    with running_kernel() as notebook:
        notebook.run("%load_ext nbray\nimport nbray")
        for wrong, told in (
            ("--block", "--block: the cell would never end"),
            ("--min-worker-port 7000", "--max-worker-port are the ends of a range"),
            ("--temp-dir /x", "NBRAY_TMPDIR"),
            ("--interface none0", "none0"),
            ("--prot 1", "Did you mean --port?"),
        ):
            assert told in notebook.run(f"%nbray start {wrong}").printed
        assert notebook.run("nbray.is_initialized()").result == "False"
        started = notebook.run(
            f"%nbray start --head --port {gcs} --object-manager-port {raylet} --storage memory "
            f"--include-dashboard yes --dashboard-port {dashboard} --num-cpus 1 --labels here=yes "
            f"--labels-file {tmp_path / 'labels.yaml'} --namespace mine --ray-client-server-port 0"
        )
        assert f":{dashboard}" in started.result, started.printed + started.error
        assert "%nbray stop ends the cluster." in started.result
        row = "[n] = nbray.nodes(); n['Labels']['zone'], n['Labels']['here'], n['NodeManagerPort']"
        assert notebook.run(row).result == f"('b', 'yes', {raylet})"
        here = "nbray.get_runtime_context()"
        address = notebook.run(f"{here}.gcs_address, {here}.namespace").result
        assert address == f"('127.0.0.1:{gcs}', 'mine')"
        assert notebook.run("%%remote\n6 * 7").result == "42"
        assert notebook.run("%nbray stop").printed == "nbray is stopped.\n"
        assert "1 node" in notebook.run(f"%nbray start --port {gcs} --num-cpus 1").result
