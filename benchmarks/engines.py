"""The engines: where each one's interpreter is, and how its commands are called."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "benchmarks" / "requirements-ray.txt"


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        name: the module to import.
        python: the interpreter that has it.
        program: what the interpreter runs as the engine's command.
        folder_variable: names the folder for sessions in the environment.
        stops_others: its stop command ends processes that others started.
        module: what has its workloads.
        workloads: those that it can do; all, when there are none here.
    """

    name: str
    python: str
    program: str
    folder_variable: str
    stops_others: bool = False
    module: str = "benchmarks.workloads"
    workloads: frozenset[str] = frozenset()

    def does(self, workload: str) -> bool:
        """Whether it can do that workload, as far as is known before."""
        if workload in OF_NBRAY:
            return self.name == "nbray"
        return not self.workloads or workload in self.workloads

    def environment(self, folder: Path) -> dict[str, str]:
        """The environment of its processes; sessions go to ``folder``."""
        token = secrets.token_hex(32)
        return {
            **os.environ,
            self.folder_variable: str(folder),
            "NBRAY_AUTH_TOKEN": token,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        }

    def command(self, *args: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run the engine's command; it must succeed.

        Raises:
            subprocess.CalledProcessError: it did not. TimeoutExpired: it took too long.
        """
        return subprocess.run(
            [self.python, "-c", self.program, *args], stdin=subprocess.DEVNULL,
            text=True, capture_output=True, timeout=timeout_s, check=True,
        )  # fmt: skip


def nbray() -> Engine:
    """This repository's engine, in this interpreter."""
    program = "import sys; sys.argv[0] = 'nbray'; from nbray.cli import main; main()"
    return Engine("nbray", sys.executable, program, "NBRAY_TMPDIR")


def ray() -> Engine:
    """Ray, in the interpreter that RAY_PYTHON names, or in .venv-ray."""
    python = os.environ.get("RAY_PYTHON") or str(ROOT / ".venv-ray" / "bin" / "python")
    program = "import sys; sys.argv[0] = 'ray'; from ray.scripts.scripts import main; main()"
    return Engine("ray", python, program, "RAY_TMPDIR", stops_others=True)


OF_NBRAY = frozenset({"links", "nodes", "objects_over_sockets", "thousand_actors"})
"""Of what nothing else has, or has the room: a worker of Ray takes 60 MB and more."""

OF_OTHERS = frozenset({"tasks", "queued_tasks", "init"})
"""The workloads of `benchmarks.others`, which only their own interpreter can import."""


OF_ONE: Mapping[str, frozenset[str]] = {
    "loky": frozenset({"grid_search"}), "dask": frozenset({"dask_graphs"}),
}  # fmt: skip
"""Those of them that only one can do."""


def other(name: str) -> Engine:
    """One of `benchmarks.others`, in the interpreter of OTHERS_PYTHON, or in .venv-others."""
    python = os.environ.get("OTHERS_PYTHON") or str(ROOT / ".venv-others" / "bin" / "python")
    can = OF_OTHERS | {"imports"} | OF_ONE.get(name, frozenset())
    return Engine(name, python, "", "NBRAY_TMPDIR", module="benchmarks.others", workloads=can)


BY_NAME: dict[str, Callable[[], Engine]] = {
    "nbray": nbray,
    "ray": ray,
    **{name: partial(other, name) for name in ("processpool", "loky", "dask", "ipyparallel")},
}


def pinned_ray() -> str:
    """The version of Ray that figures are compared with."""
    for line in REQUIREMENTS.read_text().splitlines():
        name, _, version = line.partition("==")
        if name.startswith("ray"):
            return version.strip()
    raise ValueError(f"{REQUIREMENTS} pins no version of ray")
