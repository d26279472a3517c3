"""The help of all commands says what each of them says, and imports none."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

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
    imported = "['nbray.cli.rays_options', 'nbray.cli.table']"  # no command's module
    assert shown.stdout.splitlines()[-1] == imported, shown.stdout
    assert all(name in shown.stdout for name, _ in ROWS)


@pytest.mark.parametrize(
    "words",
    [
        "stop -v --log-style=record --log-color false --help",
        "up --log-style pretty -v --help",
        "job submit --log-color=auto -v --help",
        "job list --verbose --help",
        "--logging-level info --logging-format %(message)s stop --help",
        "health-check --skip-version-check --help",
        "memory --group-by NODE_ADDRESS --sort-by PID --units KB --no-format --n 3 --help",
        "disable-usage-stats",
        "enable-usage-stats",
        "logs actor --id abcd -f -ip 127.0.0.1 --interval 1 --tail 5 --err --help",
        "logs worker -pid 12 -id abcd --help",
        "logs task --id abcd -a 1 --help",
        "logs job --id raysubmit_a -f --help",
        "logs cluster raylet* --encoding latin-1 --encoding-errors ignore --help",
    ],
)
def test_words_of_rays_commands_are_taken(words: str) -> None:
    for _ in range(2):  # a command is asked for its options as often as it is called
        done = CliRunner().invoke(main, words.split())
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize("words", ["logs actor", "logs worker", "logs task", "logs job"])
def test_a_log_of_nobody_is_refused(words: str) -> None:
    done = CliRunner().invoke(main, words.split())
    assert done.exit_code == 2 and "Missing option" in done.output
