"""Whom a driver from afar takes for the dashboard of its cluster, when it comes by HTTPS."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from nbray.wire.tls import AUTHORITY, FOLDER, SHARED_NAME


class _Named(ssl.SSLContext):
    """Looks for one name in certificates, whatever address is connected to."""

    name = ""

    def wrap_socket(self, *args: Any, **given: Any) -> ssl.SSLSocket:
        """As any context's, with that name."""
        name = self.name or given.get("server_hostname")
        return super().wrap_socket(*args, **{**given, "server_hostname": name})


def contexts(session: Path) -> list[ssl.SSLContext]:
    """What to try, one after the other: whom everybody trusts, and then the cluster's authority.

    A proxy on the way shows a certificate of the former kind, the dashboard itself one of the
    latter. What the token's authority has signed is a member's. Another authority may have signed
    more than nodes, so that the name counts: the one that all nodes have, or else the address's.

    Args:
        session: the folder of the driver; without certificates in it, its cluster has no TLS.
    """
    everybody = ssl.create_default_context()
    folder = session / FOLDER
    if not folder.is_dir():
        return [everybody]
    members = _Named(ssl.PROTOCOL_TLS_CLIENT)
    named = folder / SHARED_NAME
    if named.exists():
        members.name = named.read_text()
    members.check_hostname = named.exists()
    members.load_verify_locations(folder / AUTHORITY)
    return [everybody, members]
