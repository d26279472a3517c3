"""A virtual environment for a set of requirements, on top of what the raylet itself can import."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import site
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbray.common.process import environment

_SHOWN_BYTES = 4000


class VenvError(Exception):
    """The requirements could not be installed; the text is what pip said."""


async def make_venv(folder: Path, tool: str, wanted: Mapping[str, Any]) -> str:
    """Make a virtual environment and install the requirements; returns its interpreter.

    Args:
        folder: where; nothing of it is left when it fails or is cancelled.
        tool: ``pip`` or ``uv``.
        wanted: the field of that name of a runtime environment.

    Raises:
        VenvError: the requirements could not be installed.
    """
    try:
        return await _make(folder, tool, wanted)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


async def _make(folder: Path, tool: str, wanted: Mapping[str, Any]) -> str:
    await _run(sys.executable, "-P", "-m", "venv", "--without-pip", str(folder))
    python = str(folder / "bin" / "python")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Not --system-site-packages: of a virtual environment, that shows the packages of its base.
    inherited = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE
                                            else [])]  # fmt: skip
    lines = [f"import site; site.addsitedir({path!r})" for path in inherited]
    pth = folder / "lib" / version / "site-packages" / "_inherited.pth"
    pth.write_text("\n".join(lines) + "\n")
    requirements = folder / "requirements.txt"
    requirements.write_text("\n".join(wanted["packages"]) + "\n")
    runner = [sys.executable, "-P", "-m", "pip", "--python", python]
    install = ["install", "--disable-pip-version-check", "--no-input"]
    version_wanted = wanted.get(f"{tool}_version", "")
    if tool == "uv" or version_wanted:
        await _run(*runner, *install, f"{tool}{version_wanted}")
        runner = [python, "-P", "-m", "pip"]
    if tool == "uv":
        runner = [python, "-P", "-m", "uv", "pip"]
        options = ["install", *wanted.get("uv_pip_install_options", [])]
        await _run(*runner, *options, "--python", python, "-r", str(requirements))
        check = ["check", "--python", python]
    else:
        options = wanted.get("pip_install_options", [])
        await _run(*runner, *install, *options, "-r", str(requirements))
        check = ["check"]
    if wanted.get(f"{tool}_check"):
        await _run(*runner, *check)
    (folder / "installed.json").write_text(json.dumps(dict(wanted)))
    return python


def _variables() -> dict[str, str]:
    """For pip and uv: nothing of the current folder or its parents, which may be others', counts.

    uv takes the nearest ``uv.toml`` above the current folder, /tmp/uv.toml as well, and an index
    named there chooses what is installed.
    """
    variables = {**environment(), "PIP_REQUIRE_VIRTUALENV": "0"}
    if "UV_CONFIG_FILE" not in variables and "UV_NO_CONFIG" not in variables:
        home = Path(variables.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        for own in (home / "uv/uv.toml", Path("/etc/uv/uv.toml")):
            if own.exists():
                variables["UV_CONFIG_FILE"] = str(own)
                break
        else:
            variables["UV_NO_CONFIG"] = "1"
    return variables


async def _run(*command: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, env=_variables(),
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):  # the builds that it has started as well
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        raise
    if process.returncode:
        text = output.decode(errors="replace")[-_SHOWN_BYTES:]
        raise VenvError(f"{' '.join(command)} ended with {process.returncode}:\n{text}")
