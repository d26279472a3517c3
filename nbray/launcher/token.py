"""The secret of clusters that `nbray start` makes: one token of the user for all machines."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nbray.common.secret_file import make_secret

SHORTEST_TOKEN = 16


def token_path() -> Path:
    """The token file: ``NBRAY_AUTH_TOKEN_PATH``, or ``~/.nbray/auth_token``."""
    return Path(os.environ.get("NBRAY_AUTH_TOKEN_PATH") or Path.home() / ".nbray" / "auth_token")


def load_token(*, create: bool) -> bytes:
    """The token of ``NBRAY_AUTH_TOKEN``, or else of the token file.

    Args:
        create: make the file, with mode 0600, when there is none.

    Raises:
        FileNotFoundError: there is no token, and ``create`` is false.
        PermissionError: others may read the file.
        ValueError: the token is so short that it can be guessed.
    """
    given = os.environb.get(b"NBRAY_AUTH_TOKEN")
    if given is not None:
        return _checked(given, "NBRAY_AUTH_TOKEN")
    path = token_path()
    if create and not path.exists():
        make_secret(path)
    if not path.exists():
        raise FileNotFoundError(
            f"This machine has no cluster token. Copy {path} from the head node, "
            "or set NBRAY_AUTH_TOKEN."
        )
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise PermissionError(f"Others may read the token file {path}: run chmod 600 {path}")
    return _checked(path.read_bytes(), f"the file {path}")


def _checked(given: bytes, where: str) -> bytes:
    token = given.strip()
    if len(token) < SHORTEST_TOKEN:
        raise ValueError(
            f"The cluster token in {where} has {len(token)} characters, and can be guessed: "
            f"{SHORTEST_TOKEN} are the least. A good one: "
            "python3 -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return token
