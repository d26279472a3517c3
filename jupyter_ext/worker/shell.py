"""IPython in a worker, for remote cells that have magics or ``!commands``.

The shell is the one of `nbray.jupyter_ext.worker.display`, made when the first such cell runs; its
namespace is that cell's.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from . import display as worker_display


def shell_for(module: ModuleType) -> Any:
    """The shell of this worker, with the names of the cell that runs now."""
    worker_display.install()
    from IPython.core.interactiveshell import InteractiveShell

    shell: Any = InteractiveShell.instance()
    # Figures are collected when the cell ends, whatever backend the notebook has.
    shell.register_magic_function(_nothing, "line", "matplotlib")
    shell.user_module, shell.user_ns = module, vars(module)
    return shell


def _nothing(_line: str) -> None:
    """``%matplotlib`` in a worker."""
