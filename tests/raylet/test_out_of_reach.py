"""Values on a node that lives and cannot be asked for a moment: they come later, and are not lost.

Each was put, so that nothing could make it again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import psutil
import pytest
from support.descriptors import no_file_left
from support.nodes import Far
from support.stopping import stand_still

import nbray
from nbray.core_worker.current import joined_core
from nbray.testing import wait_until

COUNT = 2_000_000


@nbray.remote(num_cpus=0, resources={"far": 1})
class Maker:
    def make(self) -> nbray.ObjectRef:
        return nbray.put(np.ones(COUNT))


@contextmanager
def near_without_descriptors(far: Far) -> Iterator[None]:
    with no_file_left(joined_core().session.read_info()["pids"][1]):
        yield


@contextmanager
def far_without_descriptors(far: Far) -> Iterator[None]:
    with no_file_left(raylet_of(far)):
        yield


@contextmanager
def far_standing_still(far: Far) -> Iterator[None]:
    stand_still(raylet_of(far))
    try:
        yield
    finally:
        psutil.Process(raylet_of(far)).send_signal(signal.SIGCONT)


def raylet_of(far: Far) -> int:
    assert far.node is not None
    return far.node.children[-1].pid


def has_failed_once() -> bool:
    log = joined_core().session.log_path("raylet.log").read_text()
    return "A copy of object" in log


@pytest.fixture
def soon_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_HANDSHAKE_TIMEOUT_S", "1")
    monkeypatch.setenv("NBRAY_PULL_TIMEOUT_S", "1")


@pytest.mark.parametrize(
    "trouble", [near_without_descriptors, far_without_descriptors, far_standing_still]
)
def test_a_value_of_a_node_that_cannot_be_asked_for_a_moment_comes_later(
    soon_impatient: None, far: Far, trouble: Callable[[Far], AbstractContextManager[None]]
) -> None:
    maker = Maker.remote()
    ref = nbray.get(maker.make.remote(), timeout=60)
    with trouble(far):
        value = ref.future()
        wait_until(has_failed_once, "it to be asked for in vain")
    assert value.result(timeout=60).sum() == COUNT


def test_a_value_of_which_a_node_sends_nothing_more_for_a_moment_comes_later(
    soon_impatient: None, far: Far
) -> None:
    maker = Maker.remote()
    first, second = nbray.get([maker.make.remote(), maker.make.remote()], timeout=60)
    assert nbray.get(first, timeout=60).sum() == COUNT  # there is a socket, and its thread
    with far_standing_still(far):
        value = second.future()
        wait_until(has_failed_once, "it to be asked for in vain")
    assert value.result(timeout=60).sum() == COUNT


def test_a_value_of_a_node_that_ends_while_it_cannot_be_asked_is_lost(
    soon_impatient: None, far: Far
) -> None:
    maker = Maker.remote()
    ref = nbray.get(maker.make.remote(), timeout=60)
    stand_still(raylet_of(far))
    value = ref.future()
    wait_until(has_failed_once, "it to be asked for in vain")
    far.kill()
    with pytest.raises(nbray.exceptions.ObjectLostError):
        value.result(timeout=60)
