"""``python -m nbray.cli``: the command, by the Python that is meant."""

from nbray.cli import main

main(prog_name="nbray")
