"""Accelerators are given out one by one, and what runs is told which are its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.common.accelerators import VisibleDevices, devices_of
from nbray.common.resources import UNIT
from nbray.testing import wait_until


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


@nbray.remote
def process(*names: str) -> tuple[int, list[str | None]]:
    return os.getpid(), [os.environ.get(name) for name in names or ("CUDA_VISIBLE_DEVICES",)]


def test_a_process_keeps_its_devices_and_a_users_variable_wins(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    nbray.init(num_cpus=1, num_gpus=2, object_store_memory=50 << 20)
    one, two = process.options(num_gpus=1), process.options(num_gpus=2)
    cpu, variable = nbray.get(process.remote(), timeout=30)
    assert variable == ["4,5"]
    gpu, variable = nbray.get(one.remote(), timeout=30)
    assert variable == ["4"] and gpu != cpu
    both, variable = nbray.get(two.remote(), timeout=30)
    assert variable == ["4,5"] and both not in (cpu, gpu)
    assert nbray.get(process.remote(), timeout=30)[1] == ["4,5"]
    assert nbray.get(one.remote(), timeout=30)[0] != nbray.get(process.remote(), timeout=30)[0]
    env = {"env_vars": {"CUDA_VISIBLE_DEVICES": "7"}}
    for task in (process, one, process):
        assert nbray.get(task.options(runtime_env=env).remote(), timeout=30)[1] == ["7"]


@nbray.remote(num_cpus=0)
class Threads:
    def count(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")


def test_libraries_may_use_as_many_threads_as_there_are_cpus(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    nbray.init(num_cpus=3, object_store_memory=50 << 20)

    def threads(**options: Any) -> list[str | None]:
        ref = process.options(**options).remote("OMP_NUM_THREADS")
        found: list[str | None] = nbray.get(ref, timeout=30)[1]
        return found

    for cpus, expected in ((1, "1"), (3, "3"), (0, "1"), (0.5, "1"), (2, "2"), (1, "1")):
        assert threads(num_cpus=cpus) == [expected]
    assert nbray.get(Threads.remote().count.remote(), timeout=30) == "1"
    assert nbray.get(Threads.options(num_cpus=2).remote().count.remote(), timeout=30) == "2"
    env = {"env_vars": {"OMP_NUM_THREADS": "7"}}
    assert threads(num_cpus=2, runtime_env=env) == ["7"]

    @nbray.remote
    def of_numpy() -> list[int]:
        import numpy
        import threadpoolctl

        assert numpy.ones((2, 2)).sum() == 4
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info()]

    for cpus in (1, 2, 1):
        assert set(nbray.get(of_numpy.options(num_cpus=cpus).remote(), timeout=30)) == {cpus}
    assert set(nbray.get(of_numpy.options(runtime_env=env).remote(), timeout=30)) == {7}


def test_variables_of_other_vendors_and_programs_that_choose_themselves() -> None:
    devices, environment = VisibleDevices(), {"HIP_VISIBLE_DEVICES": "0,1"}
    devices.use({"GPU": ["1"], "TPU": ["2", "3"]}, environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == environment["HIP_VISIBLE_DEVICES"] == "1"
    assert environment["TPU_VISIBLE_CHIPS"] == "2,3"
    devices.use({"RBLN": ["0"]}, environment)
    assert environment == {"HIP_VISIBLE_DEVICES": "0,1", "RBLN_DEVICES": "0"}
    devices.use({}, environment)
    environment["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"] = "1"
    devices.use({"GPU": ["1"]}, environment)
    assert "CUDA_VISIBLE_DEVICES" not in environment
    named = {"HIP_VISIBLE_DEVICES": "6,7"}
    assert devices_of({"GPU": 2 * UNIT}, named) == {"GPU": {"6": UNIT, "7": UNIT}}


def test_ids_come_from_the_environment_when_it_names_enough() -> None:
    total = {"GPU": 2 * UNIT, "TPU": UNIT // 2}
    assert devices_of(total, {}) == {"GPU": {"0": UNIT, "1": UNIT}}
    named = {"CUDA_VISIBLE_DEVICES": "3,GPU-a,5"}
    assert devices_of(total, named) == {"GPU": {"3": UNIT, "GPU-a": UNIT}}
    assert devices_of(total, {"CUDA_VISIBLE_DEVICES": "3"}) == devices_of(total, {})
