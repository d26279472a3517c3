"""Addresses as text: HOST:PORT, in which an IPv6 host has brackets and stands alone without."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def joined(host: str, port: int | str) -> str:
    """HOST:PORT."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Host, without brackets, and port of HOST:PORT.

    Raises:
        ValueError: it is something else.
    """
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or not (port.isascii() and port.isdigit()) or int(port) >= 1 << 16:
        raise ValueError(f"{address!r} is not HOST:PORT.")
    if ":" in bare and not host.startswith("["):
        raise ValueError(f"{address!r}: an IPv6 host has brackets, as in [::1]:6379.")
    return bare, int(port)
