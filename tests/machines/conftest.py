"""A laptop and three machines with sshd, for the tests of a file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.laptop import Laptop, laptop_of
from support.ssh_hosts import Hosts, ssh_hosts


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """The machines; number 0 is the laptop."""
    with ssh_hosts(4) as made:
        yield made


@pytest.fixture
def laptop(hosts: Hosts) -> Iterator[Laptop]:
    """The laptop, with the file of a cluster."""
    with laptop_of(hosts) as one:
        yield one
