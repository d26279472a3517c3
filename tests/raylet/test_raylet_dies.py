"""The raylet of a driver dies: nothing waits for ever, and the next cluster works."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import nbray
from nbray.exceptions import LocalRayletDiedError
from nbray.testing import processes_of, wait_until


@nbray.remote
class Sleeper:
    """Never answers."""

    def ready(self) -> int:
        return 1

    def sleep(self) -> None:
        time.sleep(600)


@nbray.remote
def sleep() -> None:
    time.sleep(600)


@nbray.remote
def stream() -> object:
    yield 1
    time.sleep(600)


def test_all_that_waits_fails_and_says_what_to_do(cluster: Path) -> None:
    sleeper = Sleeper.options(num_cpus=0).remote()
    stored = nbray.put(np.ones(1_000_000))
    inline = nbray.put("small")
    assert nbray.get(sleeper.ready.remote(), timeout=30) == 1
    items = stream.remote()
    assert nbray.get(next(items), timeout=30) == 1
    waiting = [
        sleep.remote(), sleep.options(num_cpus=64).remote(), sleeper.sleep.remote(),
        sleep.options(max_retries=-1).remote(),
    ]  # fmt: skip
    (raylet,) = [p for p in processes_of(cluster) if "nbray.raylet" in p.info["cmdline"]]
    raylet.kill()
    for ref in [*waiting, next(items)]:
        with pytest.raises(LocalRayletDiedError, match="local raylet died") as raised:
            nbray.get(ref, timeout=30)
    assert "nbray.shutdown() and nbray.init()" in str(raised.value)
    assert nbray.wait(waiting, num_returns=4, timeout=30)[1] == []
    assert nbray.get(inline) == "small"
    for late in (
        lambda: nbray.get(sleep.remote(), timeout=30),
        lambda: nbray.get(sleeper.ready.remote(), timeout=30),
        lambda: nbray.get(stored, timeout=30),
        lambda: nbray.put(np.ones(1_000_000)),
        nbray.nodes,
    ):
        with pytest.raises(LocalRayletDiedError):
            late()
    nbray.shutdown()
    wait_until(lambda: not processes_of(cluster), "workers and GCS to leave", 30)
    nbray.init(num_cpus=1, object_store_memory=64 << 20)
    assert nbray.get(nbray.remote(lambda: 42).remote(), timeout=30) == 42
