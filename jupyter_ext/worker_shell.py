"""IPython in a worker, for remote cells that have magics or ``!commands``.

It is made when the first such cell runs; its namespace is the cell's. It keeps no history and
writes no profile.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


def shell_for(namespace: dict[str, Any]) -> InteractiveShell:
    """The shell of this worker, with the names of the cell that runs now."""
    if not InteractiveShell.initialized():
        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "nocolor"
        with tempfile.TemporaryDirectory(prefix="nbray-ipython-") as folder:  # for its start only
            InteractiveShell.instance(
                config=config, ipython_dir=folder, user_module=sys.modules["__main__"], user_ns={}
            )
        # Figures are collected when the cell ends, whatever backend the notebook has.
        made: Any = InteractiveShell.instance()
        made.register_magic_function(_nothing, "line", "matplotlib")
    shell: InteractiveShell = InteractiveShell.instance()
    shell.user_ns = namespace
    return shell


def _nothing(_line: str) -> None:
    """``%matplotlib`` in a worker."""
