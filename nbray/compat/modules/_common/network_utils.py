"""``ray._common.network_utils``: addresses as text."""

from __future__ import annotations

import ipaddress
import socket

from nbray.common.addresses import is_loopback as is_localhost

__all__ = [
    "build_address",
    "find_free_port",
    "get_localhost_ip",
    "is_ipv6",
    "is_localhost",
    "parse_address",
]


def build_address(host: str, port: int | str) -> str:
    """``host:port``; an IPv6 host in brackets."""
    return f"[{host}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def parse_address(address: str) -> tuple[str, str] | None:
    """Host and port of ``host:port``; None if it is none."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return None
    return host.strip("[]"), port


def is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).version == 6
    except ValueError:
        return False


def get_localhost_ip() -> str:
    """The loopback address."""
    return "127.0.0.1"


def find_free_port(family: int = socket.AF_INET) -> int:
    """A port that is free at this moment."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
