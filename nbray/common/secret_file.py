"""A secret of the user's in a file: made once, whoever needs it first."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path


def make_secret(path: Path) -> None:
    """Write a random secret, 64 hexadecimal digits, that only this user may read.

    The file is whole as soon as it is there; of two who make it at once, both have the first one's.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            os.link(new, path)
        except FileExistsError:
            pass  # somebody was quicker
        except OSError:  # a file system without links
            os.replace(new, path)
    finally:
        Path(new).unlink(missing_ok=True)
