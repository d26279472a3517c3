"""Which engine this notebook runs on: nbray, or Ray.

The engine is chosen by name, never by an address: nbray serves ray://HOST:10001 as Ray does, and
HOST:PORT says nothing at all. A notebook has one engine at a time, and changes it while it is in no
cluster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from nbray.common.extras import how_to_install
from nbray.notebook import engine, use

if TYPE_CHECKING:
    from .workspace import Workspace

VARIABLE = "NBRAY_ENGINE"
"""The environment variable that chooses when the extension is loaded."""
NAMES = ("nbray", "ray")


def choose(workspace: Workspace, name: str | None) -> None:
    """Have the engine of this name; None: keep that of now.

    Raises:
        UsageError: there is none, it cannot be imported, or this kernel is in a cluster.
    """
    if name is None or name == engine().name:
        return
    if engine().api.is_initialized():
        raise UsageError(
            f"The engine is {engine().name}, and this kernel is in a cluster of it: %nbray stop "
            f"first, then take {name}."
        )
    workspace.unplug()
    try:
        _use(name)
    finally:
        workspace.plug()


def begin() -> None:
    """Have the one that the environment names.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    if name := os.environ.get(VARIABLE):
        _use(name)


def _use(name: str) -> None:
    try:
        use(name)
    except ValueError as error:
        raise UsageError(f"nbray: {error}") from error
    except ImportError as error:
        raise UsageError(
            f"nbray: the engine {name} cannot be imported: {error}. Ray and nbray must be "
            f"installed for the Python of this kernel: {how_to_install('ray')}."
        ) from error


def refuse(what: str) -> None:
    """Raise one line when this engine has no such command or option."""
    if why := engine().refusal(what):
        raise UsageError(why)
