"""The raylet's side: what an environment needs is brought to this node once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shlex
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbray.common.shortages import after_shortages, is_shortage
from nbray.runtime_env import packaging
from nbray.runtime_env.folders import PackageError
from nbray.runtime_env.spec import URI_PREFIX, check_package, from_text
from nbray.runtime_env.venv import VenvError, make_venv

logger = logging.getLogger(__name__)

_TIMEOUT_S = 600.0
_KEPT = 1000
_LOOK_S = 5.0
Fetch = Callable[[bytes], Awaitable[bytes | None]]


class EnvError(Exception):
    """The environment cannot be set up; the text says why."""


class FetchError(OSError):
    """The GCS could not send a package now; the text says why."""


@dataclass(frozen=True)
class Prepared:
    """An environment that is complete on this node; what a worker needs to enter it.

    Attributes:
        text: the text form of the environment, by which workers are pooled.
        python: the command of the interpreter; empty: the raylet's own.
        env_vars: variables to set.
        working_dir: where to run; empty: the driver's.
        sys_path: what comes first in ``sys.path``.
    """

    text: str = ""
    python: str = ""
    env_vars: dict[str, str] = field(default_factory=dict)
    working_dir: str = ""
    sys_path: list[str] = field(default_factory=list)


PLAIN = Prepared()
"""The environment of whoever asks for none."""


@dataclass
class _Package:
    """What was unpacked: for which environments, when they were last needed, and its size."""

    texts: set[str] = field(default_factory=set)
    used: float = 0.0
    size: int = 0


class EnvManager:
    """All environments of this node.

    Args:
        folder: where packages are unpacked and virtual environments made.
        fetch: gets the value of a key from the GCS's key-value space, or raises `FetchError`.
    """

    def __init__(self, folder: Path, fetch: Fetch) -> None:
        self._folder = folder
        self._fetch = fetch
        self._ready: dict[str, asyncio.Task[Prepared]] = {}
        self._locks: dict[Path, asyncio.Lock] = {}
        self._packages: dict[Path, _Package] = {}

    async def prepare(self, text: str) -> Prepared:
        """Bring what the environment needs here; once, whoever asks.

        Raises:
            EnvError: it cannot be set up. The next call tries again.
        """
        if not text:
            return Prepared()
        for package in self._packages.values():
            if text in package.texts:
                package.used = time.monotonic()
        task = self._ready.get(text)
        if task is None:
            self._forget_oldest()
            task = self._ready[text] = asyncio.get_running_loop().create_task(self._make(text))
        try:
            return await asyncio.shield(task)
        except (PackageError, VenvError, OSError, ValueError) as error:
            self._ready.pop(text, None)
            raise EnvError(f"Failed to set up runtime environment.\n{error}") from error
        except Exception as error:
            # Whoever asked has to be answered, and the next one may try again.
            self._ready.pop(text, None)
            logger.exception("A runtime environment could not be set up: %s", text)
            raise EnvError(f"Failed to set up runtime environment.\n{error!r}") from error

    def _forget_oldest(self) -> None:
        """Only what is known of it: its files stay, and are found again."""
        while len(self._ready) >= _KEPT:
            oldest = next(iter(self._ready))
            if not self._ready[oldest].done():
                return
            del self._ready[oldest]

    def stop(self) -> None:
        """End what is being set up."""
        for task in self._ready.values():
            task.cancel()

    async def _make(self, text: str) -> Prepared:
        env = from_text(text)
        limit = env.get("config", {}).get("setup_timeout_seconds", _TIMEOUT_S)
        try:
            async with asyncio.timeout(None if limit == -1 else float(limit)):
                # Whoever waits for the environment has done nothing wrong.
                return await after_shortages(
                    lambda: self._make_in_time(text, env),
                    lambda error: logger.warning(
                        "A runtime environment is not set up yet: %s", error
                    ),
                    lambda error: isinstance(error, FetchError) or is_shortage(error),
                )
        except TimeoutError:
            raise VenvError(
                f"Setting it up took longer than {limit:.0f} s (setup_timeout_seconds)."
            ) from None

    async def _make_in_time(self, text: str, env: dict[str, Any]) -> Prepared:
        sys_path = []
        working_dir = ""
        if "working_dir" in env:
            working_dir = str(await self._unpacked(env["working_dir"], text))
            sys_path.append(working_dir)
        for uri in env.get("py_modules", ()):
            sys_path.append(str(await self._unpacked(uri, text)))
        python = env.get("py_executable", "")
        for tool in ("pip", "uv"):
            if tool in env:
                python = shlex.quote(await self._venv(tool, env[tool]))
        return Prepared(text, python, env.get("env_vars", {}), working_dir, sys_path)

    async def _unpacked(self, uri: str, text: str) -> Path:
        name = check_package(uri).removeprefix(URI_PREFIX)
        folder = self._folder / "packages" / name.removesuffix(".zip")
        async with self._locks.setdefault(folder, asyncio.Lock()):
            known = self._packages.setdefault(folder, _Package())
            known.texts.add(text)
            known.used = time.monotonic()
            if not folder.exists():
                package = folder.with_name(f".{folder.name}.zip")
                folder.parent.mkdir(parents=True, exist_ok=True)
                try:
                    await self._bring(uri, package)
                    known.size = await packaging.unpack(package, folder)
                finally:
                    package.unlink(missing_ok=True)
            known.used = time.monotonic()
        return folder

    async def _bring(self, uri: str, package: Path) -> None:
        """Write a package into a file, part by part."""
        row = await self._fetch(uri.encode())
        if row is None:
            raise PackageError(f"The GCS does not have the package {uri}.")
        # How many parts there are, and of one that a client sent, under which name they stand.
        count, *sent = row.decode().split()
        with package.open("wb") as file:
            for number in range(int(count)):
                part = await self._fetch(packaging.part_key(sent[0] if sent else uri, number))
                if part is None:
                    raise PackageError(f"The GCS has only a part of the package {uri}.")
                await asyncio.to_thread(file.write, part)
                if file.tell() > packaging.MAX_BYTES:
                    raise PackageError(f"The package {uri} exceeds {packaging.MAX_BYTES:,} bytes.")

    async def keep_bounds(
        self, in_use: Callable[[], set[str]], kept_s: float, most_bytes: int
    ) -> None:
        """Remove what was unpacked and is not needed any more, for ever.

        Args:
            in_use: the texts of environments that workers run in, or wait for.
            kept_s: how long it stays.
            most_bytes: what it may have together, beside the newest.
        """
        while True:
            await asyncio.sleep(min(_LOOK_S, kept_s))
            for folder in self._unneeded(in_use(), time.monotonic(), kept_s, most_bytes):
                async with self._locks.setdefault(folder, asyncio.Lock()):
                    logger.info("No worker needs %s any more.", folder)
                    for text in self._packages.pop(folder).texts:
                        self._ready.pop(text, None)
                    # What an earlier one has left, as by a process that still wrote, stays.
                    gone = folder.with_name(f".{folder.name}.{time.monotonic_ns()}.gone")
                    if folder.exists():
                        folder.rename(gone)
                    await asyncio.to_thread(shutil.rmtree, gone, True)

    def _unneeded(self, in_use: set[str], now: float, kept_s: float, most_bytes: int) -> list[Path]:
        preparing = {text for text, task in self._ready.items() if not task.done()}
        for package in self._packages.values():
            if package.texts & (in_use | preparing):
                package.used = now
        unused = [
            (package.used, folder) for folder, package in self._packages.items()
            if package.used < now
        ]  # fmt: skip
        found, size = [], 0
        for number, (used, folder) in enumerate(sorted(unused, reverse=True)):
            size += self._packages[folder].size
            too_much = number > 0 and size > most_bytes and now - used > _LOOK_S
            if now - used >= kept_s or too_much:
                found.append(folder)
        return found

    async def _venv(self, tool: str, wanted: dict[str, object]) -> str:
        name = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()[:32]
        folder = self._folder / tool / name
        async with self._locks.setdefault(folder, asyncio.Lock()):
            if (folder / "installed.json").exists():
                return str(folder / "bin" / "python")
            os.makedirs(folder.parent, exist_ok=True)
            logger.info("Installing %s into %s.", wanted["packages"], folder)
            return await make_venv(folder, tool, wanted)
