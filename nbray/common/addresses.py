"""Addresses as text: HOST:PORT, in which an IPv6 host has brackets and stands alone without."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any


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


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family of a TCP socket, and what it binds or connects to.

    A link-local address is one on an interface, as fe80::1%eth0, which sockets take as a number
    beside it: a pair of host and port has none.

    Raises:
        OSError: ``host`` is no address of IPv6, or of an interface that is not here.
    """
    if ":" not in host:
        return socket.AF_INET, (host, port)
    found = socket.getaddrinfo(
        host, port, socket.AF_INET6, socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    return socket.AF_INET6, found[0][4]


def own_address(address: str) -> str:
    """The address of this machine from which HOST:PORT is reached; nothing is sent.

    Raises:
        ValueError: ``address`` is not HOST:PORT. OSError: there is no such host, or no way to it.
    """
    host, port = split(address)
    try:
        family, place = socket_address(host, port)
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            found: tuple[Any, ...] = probe.getsockname()
    except socket.gaierror as error:
        raise OSError(f"There is no host {host!r} ({error.strerror}).") from None
    scope = found[3] if family == socket.AF_INET6 else 0
    return f"{found[0]}%{socket.if_indextoname(scope)}" if scope else str(found[0])


def interface_address(name: str) -> str:
    """The address of a network interface of this machine, of IPv4 if it has one.

    Raises:
        ValueError: there is no such interface, or it has no address.
    """
    import psutil  # a driver on one machine asks for none

    known = psutil.net_if_addrs()
    for family in (socket.AF_INET, socket.AF_INET6):
        for entry in known.get(name, ()):
            if entry.family == family and "%" not in entry.address:
                return str(entry.address)
    raise ValueError(
        f"This machine has no network interface {name!r} with an address; there are "
        f"{', '.join(sorted(known))}."
    )


def is_of_this_machine(host: str) -> bool:
    """Whether a host's name, or address, is one of this machine's.

    Raises:
        OSError: nobody knows the name.
    """
    import psutil

    there = {info[4][0] for info in socket.getaddrinfo(host.strip("[]"), None)}
    return any(e.address in there for entries in psutil.net_if_addrs().values() for e in entries)
