"""`nbray up` and its kin where the disk is full, the temporary folder odd, the cluster large."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nbray.machines.cluster_file import Auth
from nbray.machines.here import Here
from nbray.machines.home import control_folder
from nbray.machines.hosts import Host
from nbray.machines.plan import Machine
from nbray.machines.remote import worker_addresses
from nbray.machines.ssh import Ssh


def test_a_log_that_cannot_be_kept_ends_no_command(tmp_path: Path) -> None:
    said: list[str] = []
    host = Host(Machine("h"), Here(), "c", on_line=said.append)
    host.write_log(Path("/dev/full"))
    host.on_line("first")
    host.on_line("second \N{CHECK MARK}")
    assert said[0] == "first" and "no longer kept in /dev/full" in said[1]
    assert said[2:] == ["second \N{CHECK MARK}"]
    host.write_log(tmp_path / "there" / "is" / "none")
    assert "is not kept" in said[-1]
    host.on_line("third")
    assert said[-1] == "third"


@pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh")
@pytest.mark.parametrize("name", ["a b", "a%b", "x" * 80])
def test_shared_connections_have_their_sockets_in_any_temporary_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as short:
        folder = Path(short) / name
        folder.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        ssh = Ssh(Auth(), tmp_path / "known_hosts", control_folder())
        asked = subprocess.run(
            ["ssh", "-G", *ssh.options(), "host"], capture_output=True, text=True
        )
        assert asked.returncode == 0, asked.stderr
        (line,) = [one for one in asked.stdout.splitlines() if one.startswith("controlpath ")]
        socket = line.removeprefix("controlpath ")
        assert Path(socket).parent.is_dir(), socket
        assert len(f"{socket}.0123456789abcdef") <= 107, socket


def test_all_nodes_of_a_large_cluster_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a list has by default, and more text than is kept of what a set-up says."""
    monkeypatch.setenv("HOME", str(tmp_path))
    host = Host(Machine("h", True), Here(), "c")
    record = tmp_path / host.record_path.removeprefix("~/")
    session = tmp_path / "session"
    for folder in (record, session):
        folder.mkdir(parents=True)
    (session / "session.json").write_text('{"gcs_address": "127.0.0.1:1"}')
    (record / "session").symlink_to(session)
    rows = [
        {"node_ip": f"10.0.{number // 250}.{number % 250}", "is_head_node": not number,
         "labels": "x" * 1000} for number in range(2000)
    ]  # fmt: skip
    (tmp_path / "rows").write_text(json.dumps(rows, indent=2))
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"rows = json.load(open({str(tmp_path / 'rows')!r}))\n"
        "said = [int(word[8:]) for word in sys.argv if word.startswith('--limit=')]\n"
        "print(json.dumps(rows[: said[0] if said else 100], indent=2))\n"
    )
    python.chmod(0o755)
    (record / "python").write_text(f"{python}\n")
    assert worker_addresses(host) == [row["node_ip"] for row in rows[1:]]
