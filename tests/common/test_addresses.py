"""Addresses as text, and what sockets make of them."""

from __future__ import annotations

import select
import socket
from contextlib import closing

import psutil
import pytest

from nbray.common.addresses import joined, own_address, socket_address, split
from nbray.launcher.client_port import _bind
from nbray.launcher.dashboard import DashboardOptions, bind
from nbray.wire.connections import Direct
from nbray.wire.tcp import listen


@pytest.fixture
def link_local() -> str:
    """An address of this machine that is one only together with its interface."""
    for name, entries in psutil.net_if_addrs().items():
        for entry in entries:
            if entry.family == socket.AF_INET6 and entry.address.startswith("fe80:"):
                return entry.address if "%" in entry.address else f"{entry.address}%{name}"
    pytest.skip("no interface of this machine has a link-local address")


def test_the_interface_of_a_link_local_address_is_kept(link_local: str) -> None:
    with closing(listen(link_local, 0, 0)) as listening:
        port = listening.getsockname()[1]
        assert split(joined(link_local, port)) == (link_local, port)
        assert own_address(joined(link_local, port)) == link_local
        sock, failed = Direct().dial("", link_local, port)
        with closing(sock):
            assert failed == 0
            select.select([listening], [], [], 30)
            with closing(listening.accept()[0]) as accepted:
                assert accepted.getsockname() == sock.getpeername()
    with closing(bind(DashboardOptions(host=link_local, port=0))) as listening:
        assert listening.getsockname()[3] > 0
    for listening in _bind(link_local, 0):
        listening.close()


def test_an_interface_that_is_not_here_is_no_place_to_listen() -> None:
    with pytest.raises(OSError):
        socket_address("fe80::1%nowhere9", 80)
    with pytest.raises(OSError, match=r"There is no host 'fe80::1%nowhere9'"):
        own_address("[fe80::1%nowhere9]:80")
