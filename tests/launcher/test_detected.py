"""Accelerators are found by the files of their drivers, and bounded by what a node may see."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.launcher.detected import accelerators, type_label, type_of


def lay(root: Path, place: str, name: str, texts: Iterable[str]) -> Path:
    """A machine on which a driver has a folder with a file of this name for each device."""
    for number, text in enumerate(texts):
        folder = root / place.format(number)
        folder.mkdir(parents=True)
        (folder / name).write_text(text)
    return root


def nvidia(root: Path, *models: str) -> Path:
    """The files of a machine with these GPUs."""
    texts = (f"Model: \t\t {model}\nIRQ:   \t\t 35\n" for model in models)
    return lay(root, "proc/driver/nvidia/gpus/0000:0{}:00.0", "information", texts)


def amd(root: Path, *simd_counts: int) -> Path:
    """The files of a machine with such nodes in the topology of AMD's driver."""
    texts = (f"cpu_cores_count 0\nsimd_count {count}\nmem 1\n" for count in simd_counts)
    return lay(root, "sys/class/kfd/kfd/topology/nodes/{}", "properties", texts)


@pytest.mark.parametrize(
    ("given", "variables", "found"),
    [
        ({}, {}, {"GPU": 4, "accelerator_type:A100": 1}),
        ({"GPU": 2.0}, {}, {"accelerator_type:A100": 1}),
        ({"GPU": 0.0}, {}, {}),
        ({"accelerator_type:A100": 2.0}, {}, {"GPU": 4}),
        ({}, {"CUDA_VISIBLE_DEVICES": "1,3"}, {"GPU": 2, "accelerator_type:A100": 1}),
        ({}, {"CUDA_VISIBLE_DEVICES": "GPU-7f, MIG-8a ,GPU-9b"},
         {"GPU": 3, "accelerator_type:A100": 1}),
        ({}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}, {"GPU": 4, "accelerator_type:A100": 1}),
        ({}, {"CUDA_VISIBLE_DEVICES": "2,-1,3"}, {"GPU": 1, "accelerator_type:A100": 1}),
        ({}, {"CUDA_VISIBLE_DEVICES": ""}, {}),
        ({}, {"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, {}),
        ({}, {"SLURM_JOB_ID": "71"}, {}),
        ({}, {"SLURM_JOB_ID": "71", "CUDA_VISIBLE_DEVICES": "0"},
         {"GPU": 1, "accelerator_type:A100": 1}),
    ],
)  # fmt: skip
def test_gpus_are_counted_as_far_as_they_may_be_seen(
    tmp_path: Path, given: dict[str, float], variables: dict[str, str], found: dict[str, Any]
) -> None:
    machine = nvidia(tmp_path, *["NVIDIA A100-SXM4-40GB"] * 4)
    assert accelerators(given, machine, variables) == found


@pytest.mark.parametrize(
    ("variable", "value", "name", "most"),
    [
        ("CUDA_VISIBLE_DEVICES", "0,1", "GPU", 2),
        ("CUDA_VISIBLE_DEVICES", "GPU-7f", "GPU", 1),
        ("CUDA_VISIBLE_DEVICES", "", "GPU", 0),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles", "GPU", 0),
        ("TPU_VISIBLE_CHIPS", "0,1,2", "TPU", 3),
    ],
)
def test_a_node_is_not_given_more_devices_than_it_may_see(
    tmp_path: Path, variable: str, value: str, name: str, most: int
) -> None:
    variables = {variable: value}
    assert accelerators({name: float(most)}, tmp_path, variables) == {}
    with pytest.raises(ValueError, match=rf"with {most + 0.5:g} {name}, but {variable} contains"):
        accelerators({name: most + 0.5}, tmp_path, variables)
    assert accelerators({name: most + 1.0}, tmp_path, {}) == {}, "nothing says which there are"


def test_a_program_that_asks_for_more_is_refused_and_starts_nothing(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="Attempting to start raylet with 3 GPU"):
        nbray.init(num_cpus=1, num_gpus=3)
    assert not nbray.is_initialized()
    nbray.init(num_cpus=1, num_gpus=2, logging_level="warning")
    try:
        assert nbray.cluster_resources()["GPU"] == 2
        assert logging.getLogger("nbray").level == logging.WARNING
    finally:
        nbray.shutdown()


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX-PRO-6000"),
        ("NVIDIA GeForce RTX 4090", ""),
        ("", ""),
        ("\ud800 \0", ""),
    ],
)
def test_the_type_of_a_gpu_is_that_of_the_option(model: str, kind: str) -> None:
    assert type_of(model) == kind


def test_others_are_counted_by_their_files(tmp_path: Path) -> None:
    for name in ("accel0", "accel1", "davinci0", "davinci_manager", "aries0"):
        (tmp_path / "dev").mkdir(exist_ok=True)
        (tmp_path / "dev" / name).touch()
    (tmp_path / "dev/accel").mkdir()  # where new drivers of GPUs have theirs
    amd(tmp_path, 0, 304, 304)
    found = accelerators({"TPU": 8.0}, tmp_path, {"HIP_VISIBLE_DEVICES": "1"})
    assert found == {"GPU": 1, "NPU": 1, "MBLT": 1}
    assert type_label(found) == {}


def test_a_machine_without_any_has_none(tmp_path: Path) -> None:
    assert accelerators({}, tmp_path, {}) == {}
    odd = nvidia(tmp_path, "NVIDIA A100")
    (odd / "proc/driver/nvidia/gpus/0000:00:00.0/information").write_bytes(b"\xff\0no model")
    assert accelerators({}, odd, {}) == {"GPU": 1}


_PROGRAM = """
import json, nbray
from nbray.driver.local_nodes import add_node

nbray.init(num_cpus=2, include_dashboard=False, object_store_memory=50 << 20)

@nbray.remote(num_gpus=1, accelerator_type="A100",
              label_selector={"ray.io/accelerator-type": "A100"})
class Holder:
    def ids(self):
        return nbray.get_gpu_ids()

holders = [Holder.remote(), Holder.remote()]
ids = nbray.get([holder.ids.remote() for holder in holders], timeout=60)
gpus = nbray.cluster_resources()["GPU"]
add_node(num_cpus=1, object_store_memory=50 << 20)
print(json.dumps([sum(ids, []), gpus, nbray.cluster_resources()["GPU"]]))
"""


def test_programs_use_the_gpus_of_a_machine_without_naming_them(
    session_root: Path, tmp_path: Path
) -> None:
    """The driver's files lie where the kernel has them, for this program alone."""
    spaces = ["unshare", "--mount", "--propagation", "private"]
    place = "mount -t tmpfs none /proc/driver"
    if os.getuid() or subprocess.run([*spaces, "sh", "-c", place], capture_output=True).returncode:
        pytest.skip("this user may mount nothing over /proc/driver")
    nvidia(tmp_path, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB")
    script = f'{place} && cp -r "$1/." /proc/driver && exec "$2" -c "$3"'
    variables = {k: v for k, v in os.environ.items() if k not in ("CUDA_VISIBLE_DEVICES",)}
    ran = subprocess.run(
        [*spaces, "sh", "-c", script, "sh", tmp_path / "proc/driver", sys.executable, _PROGRAM],
        env=variables, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    ids, gpus, of_all = json.loads(ran.stdout.splitlines()[-1])
    assert sorted(ids) == [0, 1]
    assert (gpus, of_all) == (2, 2), "a further node of the machine has the same ones, not others"
