"""ARCHITECTURE.md tells of what is there: each folder, and no file that is not."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "ARCHITECTURE.md", *sorted((ROOT / "docs" / "internals").glob("*.md"))]
PARTS = ("nbray", "jupyter_ext", "dashboard")
AT_THE_TOP = {
    *(".ci", ".dockerignore", ".gitattributes", ".gitignore", "ARCHITECTURE.md", "CHANGELOG.md"),
    *("CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md", "benchmarks"),
    *("dashboard", "deploy", "docs", "jupyter_ext", "mkdocs.yml", "nbray", "notebooks"),
    *("pyproject.toml", "tests"),
}
MOST_BYTES = 500_000


def test_the_repository_has_nothing_that_a_command_has_left() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = [name for name in listed.stdout.decode().split("\0") if (ROOT / name).is_file()]
    assert {name.partition("/")[0] for name in names} - {""} == AT_THE_TOP
    assert not [name for name in names if (ROOT / name).stat().st_size > MOST_BYTES]


def test_each_file_that_is_named_exists() -> None:
    files = [
        path.relative_to(ROOT).as_posix()
        for part in (*PARTS, "tests", "benchmarks", "docs")
        for path in (ROOT / part).rglob("*.py")
    ]
    lost = []
    for page in PAGES:
        for named in re.findall(r"`([\w/]+\.py)`", page.read_text()):
            if not any(f"/{file}".endswith(f"/{named}") for file in files):
                lost.append(f"{page.name}: {named}")
    assert not lost, lost


def test_each_folder_is_on_the_map_and_says_at_its_door_who_lives_there() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    told = set(re.findall(r"^\| `([\w/]+)` \|", text, flags=re.MULTILINE))
    there = {
        door.parent.relative_to(ROOT).as_posix()
        for part in PARTS
        for door in (ROOT / part).rglob("__init__.py")
    }
    within = ("nbray/compat/", "nbray/util/")  # Ray's paths, which say nothing of rooms
    rooms = {room for room in there if not room.startswith(within)}
    assert told == rooms, (sorted(rooms - told), sorted(told - rooms))
    silent = [room for room in sorted(rooms) if not _door(room).startswith('"""')]
    assert not silent, silent


def _door(room: str) -> str:
    return (ROOT / room / "__init__.py").read_text()


def test_the_notebook_names_nothing_of_nbray_but_through_its_engine() -> None:
    direct = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "jupyter_ext").rglob("*.py")
        if re.search(
            r"^\s*(import nbray$|from nbray import (?!cloudpickle$))", path.read_text(), re.M
        )
    ]
    # It asks where nbray's own files are.
    assert direct == ["jupyter_ext/cell/places.py"], "use engine().api of nbray.notebook"
