"""A container's limits are the node's: CPUs and memory, by affinity and either kind of cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nbray.common.limits import Cgroups, cpu_count, memory_groups, slurm_memory
from nbray.testing import wait_until

GB = 1 << 30
CPUS = len(os.sched_getaffinity(0))


def groups(root: Path, files: dict[str, str]) -> None:
    """Cgroup folders with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/", {"cpu.max": "max 100000"}, CPUS),
        ("0::/", {"cpu.max": "100000 100000"}, 1),
        ("0::/", {"cpu.max": "50000 100000"}, 1),  # half a CPU is one that is slow
        ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1),
        ("0::/not/mounted/here", {"cpu.max": "120000 100000"}, 1),
        ("4:cpu,cpuacct:/", {"cpu,cpuacct/cpu.cfs_quota_us": "100000",
                             "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpuacct,cpu:/x", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
                              "cpu/x/cpu.cfs_quota_us": "25000",
                              "cpu/x/cpu.cfs_period_us": "50000"}, 1),
        ("4:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000",
                           "cpu.max": "1 100000"}, CPUS),
        ("", {}, CPUS),
    ],
)  # fmt: skip
def test_a_quota_of_any_level_limits_the_cpus(
    own: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    groups(tmp_path / "root", files)
    (tmp_path / "own").write_text(own)
    assert cpu_count(tmp_path / "root", tmp_path / "own") == expected


def test_slurms_variables_limit_where_its_cgroups_do_not(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("")
    where = (tmp_path, tmp_path / "own")
    job = {"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": str(CPUS)}
    assert cpu_count(*where, job | {"SLURM_CPUS_PER_TASK": "1"}) == 1
    assert cpu_count(*where, job | {"SLURM_CPUS_PER_TASK": str(CPUS + 8)}) == CPUS
    assert cpu_count(*where, job | {"SLURM_CPUS_PER_TASK": "what"}) == CPUS
    assert cpu_count(*where, {"SLURM_CPUS_PER_TASK": "1"}) == CPUS  # the login node's shell
    assert slurm_memory(job | {"SLURM_MEM_PER_NODE": "2048"}) == [2 * GB]
    assert slurm_memory(job | {"SLURM_MEM_PER_CPU": "1024"}) == [CPUS * GB]
    assert slurm_memory(job | {"SLURM_MEM_PER_NODE": "0"}) == []  # all of the node
    assert slurm_memory({"SLURM_MEM_PER_NODE": "2048"}) == []


def test_the_memory_of_every_level_counts_in_either_version(tmp_path: Path) -> None:
    root, own = tmp_path / "root", tmp_path / "own"
    groups(root, {
        "a/memory.max": str(2 * GB), "a/memory.current": "500",
        "a/memory.stat": "inactive_file 100",
        "a/b/memory.max": "max", "a/b/memory.current": "300", "a/b/memory.stat": "anon 1",
    })  # fmt: skip
    own.write_text("0::/a/b")
    found = [(group.limit(), group.used()) for group in memory_groups(root, own)[:2]]
    assert found == [(None, 300), (2 * GB, 400)]
    assert Cgroups("memory", root, own).version == 2

    groups(root, {
        "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory/c/memory.limit_in_bytes": str(GB), "memory/c/memory.usage_in_bytes": "800",
        "memory/c/memory.stat": "total_inactive_file 300",
    })  # fmt: skip
    own.write_text("8:memory:/c\n0::/a/b")
    inner, outer = memory_groups(root, own)
    assert (inner.limit(), inner.used()) == (GB, 500)
    assert outer.limit() is None


# --- real limits --------------------

SHOW = """
import nbray
nbray.init(address="local", include_dashboard=False)
found = nbray.cluster_resources()
assert nbray.get(nbray.remote(lambda: 1).remote(), timeout=60) == 1
print("RESOURCES", found["CPU"], found["memory"], found["object_store_memory"])
"""


def test_an_affinity_limits_the_cpus(session_root: Path) -> None:
    cpu = min(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, [{cpu}])\n{SHOW}"],
        capture_output=True, text=True, timeout=90,
    )  # fmt: skip
    assert "RESOURCES 1.0 " in done.stdout, done.stderr


@contextlib.contextmanager
def container(memory: int, cpus: float) -> Iterator[list[str]]:
    """Two cgroups as those of a container; yields the start of a command that runs in them."""
    name = f"nbray-test-{os.getpid()}"
    version_2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    base = Path("/sys/fs/cgroup")
    folders = [base / name] if version_2 else [base / "memory" / name, base / "cpu" / name]
    made: list[Path] = []
    try:
        for folder in folders:
            folder.mkdir()
            made.append(folder)
        quota = int(cpus * 100_000)
        if version_2:
            (folders[0] / "memory.max").write_text(str(memory))
            (folders[0] / "cpu.max").write_text(f"{quota} 100000")
        else:
            (folders[0] / "memory.limit_in_bytes").write_text(str(memory))
            (folders[1] / "cpu.cfs_quota_us").write_text(str(quota))
    except OSError as error:
        for folder in made:
            folder.rmdir()
        pytest.skip(f"no cgroup can be made here: {error}")
    enter = "".join(f"echo $$ > {folder}/cgroup.procs; " for folder in folders)
    try:
        yield ["sh", "-c", f'{enter}exec "$@"', "sh"]
    finally:
        for folder in folders:
            inside = folder / "cgroup.procs"
            wait_until(lambda inside=inside: not inside.read_text(), "the end of all in there")
            folder.rmdir()


def test_a_node_starts_by_default_in_a_container_that_is_much_smaller_than_its_machine(
    session_root: Path,
) -> None:
    limit = GB
    if psutil.virtual_memory().available * 0.3 < limit:
        pytest.skip("the machine is as small as the container")
    with container(limit, 1) as inside:
        done = subprocess.run(
            [*inside, sys.executable, "-c", SHOW], capture_output=True, text=True, timeout=90
        )
        assert "RESOURCES" in done.stdout, done.stderr
        cpus, memory, store = map(float, done.stdout.split()[1:])
        assert cpus == 1
        assert limit * 0.4 < memory < limit * 0.7
        assert limit * 0.2 < store < limit * 0.3
