"""What `pip install` leaves on a machine is what stands in the checkout."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from support.places import ROOT

import nbray
import nbray.dashboard
import nbray.jupyter_ext
from nbray.common.extras import Extra
from nbray.jupyter_ext.cell import places

PACKAGES = {
    ROOT / "nbray": nbray, ROOT / "jupyter_ext": nbray.jupyter_ext,
    ROOT / "dashboard": nbray.dashboard,
}  # fmt: skip
ELSEWHERE = {Path("config/nbray.json")}  # it is for the Jupyter server: see below


def files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: folder.name)
def test_every_file_of_a_package_is_installed_as_it_is(folder: Path) -> None:
    installed = Path(str(PACKAGES[folder].__file__)).parent
    wanted = files(folder) - ELSEWHERE
    assert wanted <= files(installed)
    assert [p for p in wanted if (folder / p).read_bytes() != (installed / p).read_bytes()] == []
    for path in wanted:
        runs = [(root / path).stat().st_mode & 0o100 for root in (folder, installed)]
        assert runs[0] == runs[1], path


def test_the_server_of_jupyter_is_told_of_its_extension() -> None:
    told = Path(sys.prefix) / "etc" / "jupyter" / "jupyter_server_config.d"
    wanted = json.loads((ROOT / "jupyter_ext" / "config" / "nbray.json").read_text())
    extensions = wanted["ServerApp"]["jpserver_extensions"]
    found = [json.loads(path.read_text()) for path in told.glob("*.json")]
    assert any(
        extensions.items() <= one.get("ServerApp", {}).get("jpserver_extensions", {}).items()
        for one in found
    )


def test_a_program_imports_the_package_that_is_tested() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import nbray; print(nbray.__file__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == nbray.__file__


def test_a_file_is_nbrays_wherever_nbray_lies() -> None:
    """Also below site-packages, whose other packages are libraries, and on other machines."""
    here = str(Path(places.__file__))
    there = "/opt/conda/lib/python3.12/site-packages"
    assert places.is_ours(here) and places.is_ours(f"{there}/nbray/core_worker/core.py")
    assert not places.is_library(here) and not places.is_users(here)
    for file, library in (
        (f"{there}/pandas/core/frame.py", "pandas"),
        (f"{there}/nbray_plugin/run.py", "nbray_plugin"),
        ("/usr/lib/python3/dist-packages/six.py", "six"),
        ("/usr/lib/python3.12/json/decoder.py", "json"),
        (json.__file__, "json"),
        (pytest.__file__, "pytest"),
        ("<frozen importlib._bootstrap>", "Python"),
    ):
        assert places.is_library(file) and places.library_of(file) == library
    for file in ("/home/me/nbray/mine.py", "/home/me/lib/python/mine.py", __file__, "mine.py"):
        assert places.is_users(file)


def test_what_messages_say_to_install_is_what_can_be_installed() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        offered = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(get_args(Extra)) <= set(offered)
