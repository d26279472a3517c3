"""The help of all commands says what each of them says, and imports none."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from nbray.cli import main
from nbray.cli.table import SECTIONS

ROWS = [(name, row) for rows in SECTIONS.values() for name, row in rows.items()]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_a_command_is_there_and_says_what_the_table_says(name: str, row: tuple[str, str]) -> None:
    found = main.get_command(click.Context(main), name)
    assert found is not None and found.name == name
    assert found.get_short_help_str(limit=1000) == row[1]


def test_the_help_imports_no_command() -> None:
    program = (
        "import sys; sys.argv = ['nbray', '--help']; import atexit\n"
        "atexit.register(lambda: print([m for m in sys.modules if m.startswith('nbray.cli.')]))\n"
        "from nbray.cli import main; main()"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout.splitlines()[-1] == "['nbray.cli.table']", shown.stdout
    assert all(name in shown.stdout for name, _ in ROWS)
