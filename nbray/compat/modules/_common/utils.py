"""``ray._common.utils``: small helpers that other libraries take from there."""

from __future__ import annotations

import asyncio
import binascii
import importlib
import os
import random
import string
import tempfile
from typing import Any

from nbray.common.memory import memory_total


def env_integer(key: str, default: int) -> int:
    """A variable of the environment as a number."""
    return int(os.environ.get(key, default))


def env_float(key: str, default: float) -> float:
    """A variable of the environment as a number."""
    return float(os.environ.get(key, default))


def env_bool(key: str, default: bool) -> bool:
    """A variable of the environment as a truth: "1" and "true" are."""
    text = os.environ.get(key)
    return default if text is None else text.lower() in ("1", "true")


def import_attr(full_path: str, *, reload_module: bool = False) -> Any:
    """What ``module.name`` or ``module:name`` is.

    Raises:
        ValueError: it is no such path. ImportError, AttributeError: there is nothing there.
    """
    module_name, _, name = full_path.replace(":", ".").rpartition(".")
    if not module_name:
        raise ValueError(f"{full_path!r} is not module.name.")
    module = importlib.import_module(module_name)
    return getattr(importlib.reload(module) if reload_module else module, name)


load_class = import_attr


def get_or_create_event_loop() -> asyncio.AbstractEventLoop:
    """The running event loop, or the thread's own, made if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:  # a thread other than the main one has none at first
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        return loop


_background: set[asyncio.Task[Any]] = set()


def run_background_task(coroutine: Any) -> asyncio.Task[Any]:
    """Run a coroutine as a task that is kept until it is done."""
    task = get_or_create_event_loop().create_task(coroutine)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def binary_to_hex(identifier: bytes) -> str:
    """Bytes as hexadecimal text."""
    return identifier.hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    """The bytes of hexadecimal text."""
    return binascii.unhexlify(hex_identifier)


def get_random_alphanumeric_string(length: int) -> str:
    """So many letters and digits, drawn by a generator of their own."""
    return "".join(random.SystemRandom().choices(string.ascii_letters + string.digits, k=length))


def get_system_memory() -> int:
    """Bytes of memory that the machine or its container has."""
    return memory_total()


def get_ray_temp_dir() -> str:
    """A folder for temporary files."""
    return tempfile.gettempdir()


def try_to_create_directory(directory_path: str) -> None:
    """Make a folder and those above it."""
    os.makedirs(os.path.expanduser(directory_path), exist_ok=True)
