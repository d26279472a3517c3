"""Accelerators are given out one by one, and what runs is told which are its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import wait_until

import nbray
from nbray.common.accelerators import devices_of
from nbray.common.resources import UNIT


@pytest.fixture
def gpus(session_root: Path) -> None:
    """Two CPUs and two GPUs, which nobody needs to have."""
    nbray.init(num_cpus=2, num_gpus=2, object_store_memory=50 << 20)


def seen() -> tuple[str | None, list[int | str], list[str]]:
    ids = nbray.get_runtime_context().get_accelerator_ids()["GPU"]
    return os.environ.get("CUDA_VISIBLE_DEVICES"), nbray.get_gpu_ids(), ids


def test_a_task_sees_its_gpus_and_one_without_sees_none(gpus: None) -> None:
    look = nbray.remote(seen)
    variable, ids, names = nbray.get(look.options(num_gpus=1).remote(), timeout=30)
    assert (variable, names) == (str(ids[0]), [str(ids[0])])
    assert nbray.get(look.options(num_gpus=2).remote(), timeout=30)[1] == [0, 1]
    assert nbray.get(look.remote(), timeout=30) == (None, [], [])


def test_actors_have_devices_of_their_own_and_fractions_share_one(gpus: None) -> None:
    @nbray.remote(num_cpus=0)
    class Holder:
        def seen(self) -> list[int | str]:
            assert os.environ["CUDA_VISIBLE_DEVICES"] == str(nbray.get_gpu_ids()[0])
            return nbray.get_gpu_ids()

    halves = [Holder.options(num_gpus=0.5).remote() for _ in range(2)]
    whole = Holder.options(num_gpus=1).remote()
    first, second = nbray.get([h.seen.remote() for h in halves], timeout=30)
    (other,) = nbray.get(whole.seen.remote(), timeout=30)
    assert first == second == [1 - int(other)]
    del halves, whole
    wait_until(lambda: nbray.available_resources().get("GPU") == 2, "the GPUs to be free")


def test_ids_come_from_the_environment_when_it_names_enough() -> None:
    total = {"GPU": 2 * UNIT, "TPU": UNIT // 2}
    assert devices_of(total, {}) == {"GPU": {"0": UNIT, "1": UNIT}}
    named = {"CUDA_VISIBLE_DEVICES": "3,GPU-a,5"}
    assert devices_of(total, named) == {"GPU": {"3": UNIT, "GPU-a": UNIT}}
    assert devices_of(total, {"CUDA_VISIBLE_DEVICES": "3"}) == devices_of(total, {})
