"""``ray._private.utils``."""

from __future__ import annotations

import threading

import psutil

from nbray.common.limits import cpu_count
from nbray.common.memory import memory_total
from nbray.compat.modules._common.utils import (
    binary_to_hex,
    get_or_create_event_loop,
    get_ray_temp_dir,
    get_system_memory,
    hex_to_binary,
    import_attr,
    load_class,
    try_to_create_directory,
)

__all__ = [
    "binary_to_hex",
    "get_num_cpus",
    "get_or_create_event_loop",
    "get_ray_doc_version",
    "get_ray_temp_dir",
    "get_system_memory",
    "get_used_memory",
    "hex_to_binary",
    "import_attr",
    "is_main_thread",
    "load_class",
    "split_address",
    "try_to_create_directory",
]


def get_num_cpus() -> float:
    """The CPUs of this machine, or of its container."""
    return cpu_count()


def get_used_memory() -> int:
    """Bytes of memory in use."""
    return memory_total() - psutil.virtual_memory().available


def get_ray_doc_version() -> str:
    """The version of Ray's documentation that links name."""
    return "latest"


def is_main_thread() -> bool:
    """Whether this is the program's first thread."""
    return threading.current_thread() is threading.main_thread()


def split_address(address: str) -> tuple[str, str]:
    """The scheme and the rest of ``scheme://rest``.

    Raises:
        ValueError: it has no scheme.
    """
    scheme, sign, rest = address.partition("://")
    if not sign:
        raise ValueError("Address must contain '://'")
    return scheme, rest
