"""What of nbray travels to Ray's workers: the modules that a remote cell runs with there.

A Ray cluster has no nbray. So a folder is made of the few files that its workers import, and
cloudpickle beside it; Ray uploads both once and puts them on the path of the job's workers
(``py_modules``). All of it is Python alone, so that it runs on other systems, too.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

_OWN = (
    "__init__.py", "causes.py", "cloudpickle.py", "notebook", "common/__init__.py",
    "common/displays.py", "common/folders.py", "common/importing.py", "common/text.py", "pickling",
    "ray_engine/__init__.py", "ray_engine/calls.py", "ray_engine/post.py", "ray_engine/shelf.py",
    "ray_engine/told.py", "ray_engine/worker.py",
)  # fmt: skip
_NOTEBOOKS = (
    "__init__.py", "messages.py", "worker", "pictures/__init__.py", "pictures/theme.py",
    "kept/__init__.py", "kept/door.py",
)  # fmt: skip


def make() -> tuple[Path, list[str]]:
    """A new folder with the modules; returns it and the paths of its packages."""
    folder = Path(tempfile.mkdtemp(prefix="nbray-for-ray-"))
    package = folder / "nbray"
    _copy(_folder_of("nbray"), _OWN, package)
    _copy(_folder_of("nbray.jupyter_ext"), _NOTEBOOKS, package / "jupyter_ext")
    _copy(_folder_of("cloudpickle"), ("",), folder / "cloudpickle")
    return folder, [str(package), str(folder / "cloudpickle")]


def _folder_of(package: str) -> Path:
    spec = sys.modules[package].__spec__ if package in sys.modules else find_spec(package)
    assert spec is not None and spec.origin is not None, package
    return Path(spec.origin).parent


def _copy(source: Path, names: tuple[str, ...], target: Path) -> None:
    for name in names:
        files = [source / name] if name.endswith(".py") else sorted((source / name).rglob("*.py"))
        for file in files:
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
