"""A file with ``provider: {type: slurm}``: a machine for the head, and jobs beyond it: pure.

What concerns the head is read as of any machine. The rest is what its autoscaler is handed, which
makes the jobs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nbray.slurm.script import read_settings

_OF_HEAD = ("head_ip", "external_head_ip", "use_external_head_ip", "use_internal_ips")
_OF_SCALING = (
    "max_workers", "upscaling_speed", "idle_timeout_minutes", "available_node_types",
    "head_node_type",
)  # fmt: skip
_NOT_OURS = {
    "docker": "the site's words for containers stand in provider.prologue",
    "worker_setup_commands": "jobs are set up by provider.prologue",
    "worker_start_ray_commands": "jobs start their nodes by `nbray slurm script FILE`",
    "min_workers": "each of available_node_types has its own",
}
_START_HEAD = "nbray start --head --port=0 --num-cpus=0"


def as_machines(given: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a list of machines, with what its autoscaler is handed as ``autoscaling``.

    Raises:
        ValueError: a key is nothing for Slurm, or there are no types.
    """
    for key, instead in _NOT_OURS.items():
        if given.get(key):
            raise ValueError(f"{key} is nothing for a cluster on Slurm: {instead}.")
    provider = dict(given["provider"])
    jobs = {key: value for key, value in provider.items() if key not in (*_OF_HEAD, "type")}
    settings = read_settings(jobs)
    types = given.get("available_node_types")
    if not isinstance(types, dict) or not types:
        raise ValueError("available_node_types names no type of workers.")
    for name, one in types.items():
        config = one.get("node_config") if isinstance(one, dict) else None
        try:
            read_settings(jobs, config or {})
        except ValueError as error:
            raise ValueError(f"available_node_types.{name}.node_config: {error}") from None
    scaling = {key: given[key] for key in _OF_SCALING if given.get(key) is not None}
    scaling["cluster_name"] = given.get("cluster_name")
    scaling["provider"] = {"type": "slurm", **jobs}
    rest = {
        key: value for key, value in given.items()
        if key not in (*_OF_SCALING, *_NOT_OURS)
    }  # fmt: skip
    of_head = {key: provider[key] for key in _OF_HEAD if key in provider}
    rest["provider"] = {"type": "slurm", "interface": settings.interface, **of_head}
    rest.setdefault("head_start_ray_commands", [_START_HEAD])
    return {**rest, "autoscaling": scaling}
