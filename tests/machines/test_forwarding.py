"""A port that leads to the dashboard of a cluster of a file: who holds it hears of its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from support.commands import command

_SSH = """#!/bin/sh
case "$*" in
*"echo ready"*) echo ready; exit 255;;
*) echo "http://127.0.0.1:1/login?key=x";;
esac
"""
_KUBECTL = """#!/bin/sh
case "$*" in
*port-forward*) echo "Forwarding"; exit 1;;
*) echo "http://127.0.0.1:1/login?key=x";;
esac
"""
_MACHINES = {"cluster_name": "c", "provider": {"type": "local", "head_ip": "h", "worker_ips": []}}
_PODS = {
    "cluster_name": "c",
    "provider": {"type": "kubernetes", "image": "i", "namespace": "n", "context": "x"},
    "available_node_types": {"head": {"resources": {"CPU": 1}}},
    "head_node_type": "head",
}


@pytest.mark.parametrize(
    ("name", "text", "given"), [("ssh", _SSH, _MACHINES), ("kubectl", _KUBECTL, _PODS)]
)
def test_the_end_of_the_way_to_a_dashboard_ends_the_command(
    name: str, text: str, given: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / name
    program.parent.mkdir()
    program.write_text(text)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(given))
    ended = command("dashboard", str(file), "-p", "18266")
    assert ended.returncode == 1, ended.stderr
    assert "http://localhost:18266/login?key=x" in ended.stdout
    assert f"The way to the dashboard has ended: {name} left with" in ended.stderr
