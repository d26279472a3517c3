"""What a process imports to start: each module is paid for by every start, and held for good."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STARTS = """
import sys
import nbray
nbray.init(num_cpus=1, object_store_memory=64 << 20)
rare = ("asyncio", "grpc", "cryptography", "yaml", "email", "html", "importlib.metadata", "uvloop",
        "psutil", "tarfile", "zipfile")
print([name for name in rare if name in sys.modules])
nbray.shutdown()
"""


def test_a_driver_starts_without_what_other_processes_or_few_programs_use(
    session_root: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", STARTS], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout == "[]\n", ran.stdout
