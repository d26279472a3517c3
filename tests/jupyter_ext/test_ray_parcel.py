"""What travels to Ray's workers imports nothing that stays behind; needs no Ray."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from nbray.ray_engine import parcel

_BEHIND = {"nbray.notebook_engine", "nbray.ray_engine.kernel", "nbray.ray_engine.near"}
"""Named by `nbray.notebook` for whoever has all of nbray."""


def _imports(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those at the begin of a module: others are of who needs them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.Try):
            yield from _imports(node)


def test_the_modules_that_travel_import_only_each_other() -> None:
    folder, _ = parcel.make()
    try:
        files = {
            ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix(".__init__"): file
            for file in folder.rglob("*.py")
        }
        missing = {}
        for module, file in files.items():
            if not module.startswith("nbray."):
                continue
            for node in _imports(ast.parse(file.read_text())):
                wanted = _wanted(module, file, node)
                gone = [name for name in wanted if name.startswith("nbray.") and name not in files]
                if gone and not set(gone) <= _BEHIND:
                    missing[module] = gone
        assert not missing
    finally:
        shutil.rmtree(folder)


def test_what_needs_no_ray_is_imported_with_nothing_but_what_travels() -> None:
    folder, _ = parcel.make()
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); import nbray.ray_engine.told, "
        "nbray.jupyter_ext.worker.running, nbray.jupyter_ext.worker.displays"
    )
    try:  # without site-packages
        ran = subprocess.run(
            [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
    finally:
        shutil.rmtree(folder)


def _wanted(module: str, file: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, *filter(None, [node.module])])
    return [base]
