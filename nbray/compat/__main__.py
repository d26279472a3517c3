"""``python -m nbray.compat PROGRAM [ARGS]``: run a program for which ``import ray`` is nbray.

Also ``-m MODULE`` and ``-c CODE``, as ``python`` has them. Python processes that the program
starts find nbray under Ray's name, too, and the command ``ray`` that it calls is ``nbray``.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import NoReturn

from nbray import compat
from nbray.common.folders import current_folder

_USAGE = "usage: python -m nbray.compat [PROGRAM | -m MODULE | -c CODE] [ARGS ...]"
_FOLDER = str(Path(__file__).with_name("path"))


def main(args: list[str]) -> None:
    """Run what ``args`` name, as ``python`` would."""
    match args:
        case ["-h" | "--help", *_]:
            print(__doc__)
        case ["-m", module, *rest]:
            _begin(current_folder(), ["-m", *rest])
            spec, code = _module(module)
            sys.argv[0] = spec.origin or module
            _run(code, file=spec.origin, spec=spec)
        case ["-c", code, *rest]:
            _begin("", ["-c", *rest])
            _run(compile(code, "<string>", "exec"))
        case [program, *_] if not program.startswith("-"):
            try:
                text = Path(program).read_bytes()
            except OSError as error:
                _refuse(f"can't open {program!r}: {error.strerror}")
            _begin(os.path.dirname(os.path.abspath(program)), args)
            _run(compile(text, program, "exec"), file=program)
        case [option, *_]:
            _refuse(f"there is no option {option}")
        case _:
            _refuse("a program is missing")


def _begin(folder: str, argv: list[str]) -> None:
    try:
        compat.install()
    except RuntimeError as error:
        _refuse(str(error))
    # Processes that inherit the environment find a package and a command `ray` there.
    for variable, own in (("PYTHONPATH", _FOLDER), ("PATH", f"{_FOLDER}/bin")):
        entries = os.environ.get(variable, "").split(os.pathsep)
        if own not in entries:
            os.environ[variable] = os.pathsep.join([own, *filter(None, entries)])
    os.environ["NBRAY_COMPAT_PYTHON"] = sys.executable
    sys.argv = argv
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _module(name: str) -> tuple[ModuleSpec, CodeType]:
    """A module that is to run as the program: its own code, or that of a package's `__main__`."""
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except ModuleNotFoundError as error:
        _refuse(str(error))
    loader = None if spec is None else spec.loader
    code = loader.get_code(spec.name) if isinstance(loader, InspectLoader) and spec else None
    if spec is None or code is None:
        _refuse(f"there is no module {name} that can run")
    return spec, code


def _run(code: CodeType, file: str | None = None, spec: ModuleSpec | None = None) -> None:
    """Run ``code`` as the module `__main__`, which stays so for what runs at the end."""
    program = ModuleType("__main__")
    vars(program).update(__builtins__=__builtins__, __spec__=spec)
    if file is not None:
        vars(program)["__file__"] = file
    if spec is not None:
        program.__package__ = spec.parent
    sys.modules["__main__"] = program
    exec(code, vars(program))


def _refuse(why: str) -> NoReturn:
    sys.exit(f"{_USAGE}\npython -m nbray.compat: {why}")


if __name__ == "__main__":
    main(sys.argv[1:])
