"""TLS of the nodes of a file: ``tls: true``, or ``tls: FOLDER``, which `nbray tls init` has made.

With ``true`` nodes show what the cluster's token signs, and nothing is to be spread. From a folder
each host is handed a certificate of its own, over ssh; the authority's key stays here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from nbray.wire.certificates import Authority, days_left

FILE, AUTHORITY = "tls.pem", "tls-ca.pem"
"""In a host's record: its certificate with the key, and the authority."""

_DAYS = 365
_RENEWED_DAYS = 30


def check(tls: bool | str) -> None:
    """Raises ValueError if there is no authority in that folder."""
    if isinstance(tls, str):
        folder = Path(tls).expanduser()
        for name in ("ca.crt", "ca.key"):
            if not (folder / name).is_file():
                raise ValueError(
                    f"tls: there is no {name} in {folder}: `nbray tls init --dir {tls}` makes an "
                    "authority; `tls: true` needs none."
                )


def described(tls: bool | str) -> list[str]:
    """What nodes are started anew for when it changes."""
    if isinstance(tls, str):
        authority = (Path(tls).expanduser() / "ca.crt").read_bytes()
        return [f"tls {hashlib.sha256(authority).hexdigest()}"]
    return ["tls"] if tls else []


def exports(tls: bool | str, record: str) -> dict[str, str]:
    """The variables of the start commands on a host."""
    if not tls:
        return {}
    own = {"NBRAY_USE_TLS": "1"}
    if isinstance(tls, str):
        own |= {
            "NBRAY_TLS_SERVER_CERT": f"{record}/{FILE}",
            "NBRAY_TLS_SERVER_KEY": f"{record}/{FILE}",
            "NBRAY_TLS_CA_CERT": f"{record}/{AUTHORITY}",
        }
    return own


def will_do(folder: str, files: Mapping[str, bytes]) -> bool:
    """Whether a certificate that pods share is of the folder's authority, and holds for a month."""
    if not {"tls.crt", "tls.key", "ca.crt"} <= files.keys():
        return False
    authority = (Path(folder).expanduser() / "ca.crt").read_bytes()
    return files["ca.crt"] == authority and days_left(files["tls.crt"]) > _RENEWED_DAYS


def shared_by_all(folder: str, hosts: Sequence[str]) -> dict[str, bytes]:
    """A certificate that all nodes show, its key, and the authority.

    Raises:
        OSError, ValueError: the authority cannot be read.
    """
    authority = Authority.of(Path(folder).expanduser())
    pair = authority.sign(hosts, _DAYS)
    return {
        "tls.crt": pair.certificate, "tls.key": pair.key, "ca.crt": authority.pair.certificate
    }  # fmt: skip


def made_for(tls: bool | str, hosts: Sequence[str]) -> dict[str, bytes]:
    """The files that a host is handed, by their names in its record.

    Raises:
        OSError, ValueError: the authority cannot be read.
    """
    if not isinstance(tls, str):
        return {}
    authority = Authority.of(Path(tls).expanduser())
    pair = authority.sign(hosts, _DAYS)
    return {FILE: pair.certificate + pair.key, AUTHORITY: authority.pair.certificate}
