"""Ray's name for nbray: after `install`, ``import ray`` gives nbray, here and in the workers.

``python -m nbray.compat PROGRAM`` runs a program so, with the processes that it starts.
docs/coming-from-ray.md tells what such a program finds, and what it does not.

`nbray.compat.finder` says which module stands behind which name, `nbray.compat.top` is the module
``ray`` itself, `nbray.compat.missing` knows what Ray has and nbray has not, and
`nbray.compat.modules` has what lies in Ray's private modules and other libraries import.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbray.compat.finder import RayFinder

__all__ = ["RAY_VERSION", "install", "is_installed"]

RAY_VERSION = "2.60.0"

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_finder: RayFinder | None = None


def is_installed() -> bool:
    """Whether ``import ray`` gives nbray in this process.

    Returns:
        True after `install`, and under ``python -m nbray.compat``.

    Examples:
        >>> nbray.compat.is_installed()
        False
    """
    return _finder is not None and _finder in sys.meta_path


def install() -> None:
    """Have ``import ray`` give nbray, in this process and in the workers of its program.

    It comes before `nbray.init`, and before anything imports Ray. A Ray that is installed is left
    alone, and out of reach of this program. A second call does nothing.

    Raises:
        RuntimeError: Ray itself has been imported already, or this program has joined a cluster,
            whose workers were told then what the program imports.

    Examples:
        ```python
        import nbray.compat

        nbray.compat.install()

        import ray

        assert ray.put is nbray.put
        ```
    """
    global _finder
    from nbray.compat.finder import RayFinder, installed_ray

    with _lock:
        if is_installed():
            return
        imported = sys.modules.get("ray")
        if imported is not None:
            raise RuntimeError(
                f"Ray itself has been imported already, from {getattr(imported, '__file__', '?')}: "
                "call nbray.compat.install() before anything imports ray."
            )
        driver = sys.modules.get("nbray.driver.driver")
        if driver is not None and driver.current_driver() is not None:
            raise RuntimeError(
                "nbray.compat.install() comes before nbray.init(): workers hear once what their "
                "program imports. Call nbray.shutdown(), nbray.compat.install(), and nbray.init() "
                "again."
            )
        other = installed_ray()
        if other is not None:
            logger.info("nbray stands in the place of the Ray that is installed at %s.", other)
        _finder = _finder or RayFinder()
        sys.meta_path.insert(0, _finder)
