"""Ray's settings that nbray has: ``_system_config`` of `init`, and variables ``RAY_<name>``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

from nbray.common.config import Config
from nbray.common.ignoring import ignore

# Ray's name of a setting: the field of `Config`, and how many of Ray's units one of ours has.
_SETTINGS: dict[str, tuple[str, float]] = {
    "CLIENT_RECONNECT_GRACE_PERIOD": ("client_reconnect_grace_period", 1),
    "gcs_rpc_server_reconnect_timeout_s": ("gcs_rpc_server_reconnect_timeout_s", 1),
    "health_check_failure_threshold": ("health_check_failure_threshold", 1),
    "health_check_period_ms": ("health_check_period_s", 1000),
    "health_check_timeout_ms": ("health_check_timeout_s", 1000),
    "local_fs_capacity_threshold": ("local_fs_capacity_threshold", 1),
    "max_direct_call_object_size": ("max_inline_bytes", 1),
    "max_lineage_bytes": ("max_lineage_bytes", 1),
    "memory_monitor_refresh_ms": ("memory_monitor_refresh_ms", 1),
    "memory_usage_threshold": ("memory_usage_threshold", 1),
    "min_spilling_size": ("spill_file_bytes", 1),
    "object_manager_default_chunk_size": ("pull_chunk_bytes", 1),
    "object_manager_pull_timeout_ms": ("pull_timeout_s", 1000),
    "object_spilling_threshold": ("object_spilling_threshold", 1),
    "raylet_report_resources_period_milliseconds": ("raylet_report_period_s", 1000),
    "record_ref_creation_sites": ("record_ref_creation_sites", 1),
    "task_oom_retries": ("task_oom_retries", 1),
    "task_oom_retry_delay_base_ms": ("task_oom_retry_delay_s", 1000),
    "task_rpc_inlined_bytes_limit": ("max_inline_arguments_bytes", 1),
    "worker_register_timeout_seconds": ("worker_register_timeout_s", 1),
}
_TRUTHS = {"true": 1, "false": 0}
_WHOLE = {field.name for field in fields(Config) if field.type == "int"}


def system_config(given: object) -> dict[str, str]:
    """The variables ``NBRAY_<FIELD>`` that say what ``_system_config`` says.

    A key that has no meaning here is ignored, which is told at debug level.

    Raises:
        TypeError: it is no dict. ValueError: a value is no number.
    """
    if not isinstance(given, dict):
        raise TypeError("The _system_config must be a dict.")
    unknown = [str(key) for key in given if key not in _SETTINGS]
    if unknown:
        ignore("nbray.init(_system_config=)", unknown)
    return dict(_variables((key, value) for key, value in given.items() if key in _SETTINGS))


def ray_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What Ray's variables ``RAY_<setting>`` say, where ``NBRAY_<FIELD>`` says nothing.

    Raises:
        ValueError: one is no number.
    """
    given = ((key, environment.get(f"RAY_{key}")) for key in _SETTINGS)
    found = _variables((key, text) for key, text in given if text is not None)
    return {name: text for name, text in found if name not in environment}


def _variables(given: Iterable[tuple[str, object]]) -> Iterator[tuple[str, str]]:
    for key, value in given:
        field, unit = _SETTINGS[key]
        try:
            number = float(_TRUTHS.get(str(value).lower(), value)) / unit  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"Ray's setting {key} is a number, not {value!r}.")
        yield f"NBRAY_{field.upper()}", str(int(number) if field in _WHOLE else number)
