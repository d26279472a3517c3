"""Whose a file of code is: nbray's, a library's, or the user's.

The package is found by where it lies: below site-packages after a plain install, in a checkout
after an editable one. Tracebacks of workers name files of other machines, whose libraries are
known by the folders that Python keeps them in.
"""

from __future__ import annotations

import os
import re
import site
import sysconfig
from pathlib import Path

import nbray

_OURS = tuple(
    {str(folder) + os.sep for folder in (Path(__file__).parents[1], Path(nbray.__file__).parent)}
)
_LIBRARIES = tuple(
    sorted(
        {
            folder + os.sep
            for folder in (
                *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
                *site.getsitepackages(), site.getusersitepackages(),
            )
        },
        key=len, reverse=True,
    )
)  # fmt: skip
_LIKE_OURS = re.compile(
    r"/(?:(?:site|dist)-packages|_ray_pkg_[0-9a-f]+)/nbray/|^python/ray/_raylet\.pyx$"
)
"""Where a package lies that was installed, or that Ray brought to its workers; and what of Ray
stands above each task."""
_LIKE_A_LIBRARY = re.compile(
    r".*/(?:site|dist)-packages/|.*/lib(?:64)?/python3\.\d+t?/(?:lib-dynload/)?"
)


def is_ours(file: str) -> bool:
    """Whether it is nbray's own code."""
    return file.startswith(_OURS) or _LIKE_OURS.search(file) is not None


def is_library(file: str) -> bool:
    """Whether it is another library's code, or Python's own."""
    return not is_ours(file) and (file.startswith("<frozen") or bool(_library_folder(file)))


def library_of(file: str) -> str:
    """The library whose file it is, as it is imported."""
    folder = _library_folder(file)
    return file[len(folder) :].partition("/")[0].removesuffix(".py") if folder else "Python"


def is_users(file: str) -> bool:
    """Whether it is neither: a file that the user may edit."""
    return not is_ours(file) and not is_library(file)


def _library_folder(file: str) -> str:
    """The folder of libraries that holds it; empty when none does."""
    like = _LIKE_A_LIBRARY.match(file)
    known = next((folder for folder in _LIBRARIES if file.startswith(folder)), "")
    return max(known, like[0] if like else "", key=len)
