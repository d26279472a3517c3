"""What of Ray's `init` has a place here beside the named arguments: see `nbray.init`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbray.common.folders import absolute
from nbray.common.ignoring import ignore
from nbray.common.ray_settings import system_config
from nbray.common.text import check_namespace, check_text
from nbray.driver.job_config import JobConfig
from nbray.driver.logging_config import LoggingConfig
from nbray.options.option import Scope
from nbray.options.table import options_of
from nbray.runtime_env.spec import merge, validate

_LONGEST_METADATA = 100_000
_SUBMITTED = "NBRAY_JOB_CONFIG"
_OWN_PARAMETERS = {
    "CPU": "num_cpus", "GPU": "num_gpus", "memory": "_memory",
    "object_store_memory": "object_store_memory",
}  # fmt: skip


@dataclass(frozen=True)
class HiddenOptions:
    """The arguments of `init` that begin with an underscore, as far as they say something.

    Attributes:
        node_ip_address: where the new cluster listens.
        memory: bytes of the resource "memory" of the new node.
        object_spilling_directory: where values go when the store is full.
        variables: settings of the new cluster, as ``NBRAY_<FIELD>``.
        autoscaling_config: the file of the new cluster's autoscaler.
    """

    node_ip_address: str | None = None
    memory: float | None = None
    object_spilling_directory: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    autoscaling_config: Path | None = None


def hidden_options(given: Mapping[str, Any]) -> HiddenOptions:
    """Take Ray's arguments that have no name in our signature.

    Those that come true anyway are ignored, and the others refused.

    Args:
        given: all arguments without a parameter of their own.

    Raises:
        RuntimeError: an argument is neither Ray's nor nbray's. TypeError, ValueError: impossible,
            or Ray's and refused.
    """
    known = options_of(Scope.INIT)
    unknown = [name for name in given if name not in known]
    if unknown:
        import difflib  # at its first use: the start of every program is quicker without

        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise RuntimeError(f"Unknown keyword argument(s): {', '.join(unknown)}.{hint}")
    for name, value in given.items():
        known[name].check_refusal(value, f"init({name}=)")
    ignored = [name for name, value in given.items() if value and not known[name].has_effect]
    if ignored:
        ignore("nbray.init()", ignored)
    scaling = given.get("_autoscaling_config")
    return HiddenOptions(
        given.get("_node_ip_address"),
        given.get("_memory"),
        given.get("_object_spilling_directory"),
        system_config(given.get("_system_config") or {}),
        None if scaling is None else Path(scaling),
    )


def node_resources(
    custom: Mapping[str, float] | None,
    num_cpus: float | None,
    num_gpus: float | None,
    memory: float | None,
) -> dict[str, float]:
    """What the new node has; the machine's CPUs and memory are not named here.

    Raises:
        TypeError: ``custom`` is no mapping. ValueError: it names what has a parameter of its own.
    """
    if custom is None:
        custom = {}
    elif not isinstance(custom, Mapping):
        raise TypeError(f"resources is a dict, as {{'name': 1}}, not {type(custom).__name__}.")
    for name, parameter in _OWN_PARAMETERS.items():
        if name in custom:
            raise ValueError(f"{name!r} is no custom resource: use init({parameter}=...) instead.")
    named = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory}
    return {**custom, **{name: amount for name, amount in named.items() if amount is not None}}


@dataclass(frozen=True)
class JobOptions:
    """What a program says of its job, checked."""

    namespace: str | None
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    sys_path: list[str]
    detached: bool
    logging: LoggingConfig | None


def job_options(
    config: JobConfig | dict[str, Any] | None,
    namespace: str | None,
    runtime_env: Mapping[str, Any] | None,
) -> JobOptions:
    """The job as `init` was told of it; its own arguments come before those of ``job_config``.

    Raises:
        TypeError, ValueError: something of it cannot be.
    """
    if isinstance(config, dict):
        config = JobConfig.from_json(config)
    elif config is None:
        config = JobConfig()
    elif not isinstance(config, JobConfig):
        raise TypeError(f"job_config is an nbray.job_config.JobConfig, not {type(config)}.")
    submitted = _submitted_job()
    metadata = {
        check_text("A key of a job's metadata", key):
        check_text(f"The job's metadata {key!r}", value, _LONGEST_METADATA) if value else ""
        for key, value in {**submitted.metadata, **config.metadata}.items()
    }  # fmt: skip
    folders = [absolute(folder, "code_search_path") for folder in config.code_search_path]
    return JobOptions(
        check_namespace(config.ray_namespace if namespace is None else namespace),
        merge(validate(submitted.runtime_env), validate(runtime_env or config.runtime_env)),
        metadata,
        folders + config._py_driver_sys_path,
        config.default_actor_lifetime == "detached",
        config.py_logging_config,
    )


def _submitted_job() -> JobConfig:
    """What a job that was submitted gives its drivers: its environment, and whose they are.

    Raises:
        ValueError: the variable, which the job's supervisor sets, has been changed.
    """
    text = os.environ.get(_SUBMITTED)
    if not text:
        return JobConfig()
    try:
        said = json.loads(text)
        return JobConfig(runtime_env=said["runtime_env"], metadata=said["metadata"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{_SUBMITTED} is not what a job gives its drivers: {error!r}") from None
