"""`nbray tls init`: an authority once, and a certificate each time."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from nbray.cli.tls import tls
from nbray.launcher.tls import TlsOptions


def test_what_it_makes_is_what_nodes_need_and_its_output_is_for_eval(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    made = CliRunner().invoke(tls, ["init", "--dir", str(folder), "head.example.org", "10.0.0.1"])
    assert made.exit_code == 0, made.output
    exports = [line for line in made.stdout.splitlines() if line]
    assert all(line.startswith("export NBRAY_") for line in exports)
    variables = dict(line.removeprefix("export ").split("=", 1) for line in exports)
    variables = {name: value.strip("'") for name, value in variables.items()}
    options = TlsOptions.from_environment(variables)
    assert options.files is not None and options.files.check() == "nbray"
    for name in ("ca.key", "node.key"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    authority, certificate = (folder / "ca.crt").read_bytes(), (folder / "node.crt").read_bytes()
    assert CliRunner().invoke(tls, ["init", "--dir", str(folder)]).exit_code == 0
    assert (folder / "ca.crt").read_bytes() == authority, "nodes that run go on with it"
    assert (folder / "node.crt").read_bytes() != certificate


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--days", "0"], "not in the range"),
        (["no host"], "'no host' is neither the name of a host nor an address"),
        (["b\u00fccher.example"], "neither the name of a host"),
    ],
)
def test_what_it_cannot_make_is_one_line(tmp_path: Path, words: list[str], why: str) -> None:
    said = CliRunner().invoke(tls, ["init", "--dir", str(tmp_path), *words])
    assert said.exit_code and why in said.output and "Traceback" not in said.output


def test_an_authority_that_is_damaged_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("gone")
    (tmp_path / "ca.key").write_text("gone")
    said = CliRunner().invoke(tls, ["init", "--dir", str(tmp_path)])
    assert said.exit_code == 1 and "No certificate was made" in said.output
    assert (tmp_path / "ca.key").read_text() == "gone"
