"""The autoscaler's part of a cluster's file: node types, bounds and pace, with Ray's keys."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nbray.autoscaler.model import Rules, TypeRules
from nbray.autoscaler.providers.base import INSTANCE_LABEL, TYPE_LABEL, NodeType
from nbray.common.limits import cpu_count
from nbray.common.resources import to_units
from nbray.common.yaml_file import read_yaml
from nbray.scheduling.labels import check_node_labels
from nbray.wire.scaling_messages import Bounds, Hold

LOCAL_TYPE = "local.cluster.node"
"""The type of the machines of a list that names no types, as in Ray."""

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_FAKE = ("fake", "fake_multinode")


class ScalingConfigError(ValueError):
    """A file cannot be used for an autoscaler; the text says where and what to do."""


class _Type(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One entry of ``available_node_types``; other keys are the provider's matter."""

    resources: dict[str, _Amount] = {}
    labels: dict[str, str] = {}
    node_config: dict[str, Any] | None = None
    min_workers: _Count = 0
    max_workers: _Count | None = None
    idle_timeout_s: _Amount | None = None
    priority: int = 0


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of the file here; all other keys are for `nbray up` and for the provider."""

    cluster_name: str
    provider: dict[str, Any]
    min_workers: _Count | None = None
    max_workers: _Count | None = None
    upscaling_speed: _Amount = 1.0
    idle_timeout_minutes: _Amount = 5.0
    available_node_types: dict[str, _Type] | None = None
    head_node_type: str | None = None


class ScalingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster's file, as the autoscaler uses it.

    Attributes:
        name: ``cluster_name``.
        kind: ``provider.type``.
        types: the types of workers, by name; the head's is none of them.
        most: nodes of all types together, the head not counted.
        speed: ``upscaling_speed``.
        idle_s: after so long an idle node leaves, unless its type says otherwise.
        document: the whole file.
    """

    name: str
    kind: str
    types: dict[str, NodeType]
    most: int
    speed: float
    idle_s: float
    document: dict[str, Any]

    @property
    def is_needed(self) -> bool:
        """Whether anything can grow or shrink; machines of a list are started by `nbray up`."""
        if self.kind != "local":
            return True
        return any(one.min_workers != one.max_workers for one in self.types.values())

    def bounded(self, bounds: Bounds | None) -> ScalingConfig:
        """The same with bounds that somebody set instead."""
        if bounds is None:
            return self
        if bounds.hold:
            kept = int(bounds.hold is Hold.LEAST)
            held = {
                name: msgspec.structs.replace(
                    one, min_workers=kept * one.min_workers, max_workers=kept * one.min_workers
                )
                for name, one in self.types.items()
            }
            return msgspec.structs.replace(self, types=held)
        first = bounds.type or next(iter(self.types))
        if first not in self.types:
            return self
        own = msgspec.structs.replace(
            self.types[first], min_workers=bounds.least,
            max_workers=max(self.types[first].max_workers, bounds.most),
        )  # fmt: skip
        return msgspec.structs.replace(self, types={**self.types, first: own}, most=bounds.most)

    def rules(
        self, not_before: Mapping[str, float], learned: Mapping[str, Mapping[str, int]]
    ) -> Rules:
        """What a plan may do.

        Args:
            not_before: for types whose last nodes failed, when they are tried again.
            learned: what nodes of a type turned out to have, whose file does not say it.
        """
        types = {}
        for name, one in self.types.items():
            resources = to_units(one.resources) or dict(learned.get(name, _like_here()))
            idle_s = self.idle_s if one.idle_timeout_s is None else one.idle_timeout_s
            labels = {**one.labels, TYPE_LABEL: name}
            types[name] = TypeRules(
                name, resources, labels, one.min_workers, one.max_workers, idle_s, one.priority,
                not_before.get(name, 0.0),
            )  # fmt: skip
        return Rules(types, self.most, self.speed)


def _like_here() -> dict[str, int]:
    return to_units({"CPU": cpu_count()})


def read(path: Path) -> ScalingConfig:
    """Read a cluster's file.

    Raises:
        ScalingConfigError: it cannot be read, or is not one.
    """
    try:
        given = read_yaml(path)
    except (OSError, ValueError) as error:
        raise ScalingConfigError(f"{path} cannot be read: {error}") from error
    try:
        return check(given)
    except ScalingConfigError as error:
        raise ScalingConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ScalingConfigError(f"{path}: something in it contains itself.") from None


def check(given: object) -> ScalingConfig:
    """The autoscaler's view of a YAML document; errors as for `read`."""
    if not isinstance(given, dict):
        raise ScalingConfigError("a cluster is a mapping with cluster_name and provider.")
    document: dict[str, Any] = _with_variables(given)
    types = document.get("available_node_types") or {}
    if not isinstance(types, dict):
        raise ScalingConfigError("available_node_types is a mapping of types by their names.")
    for name, entry in types.items():
        _refuse_near_misses(f"available_node_types.{name}", entry)
    try:
        file = msgspec.convert({k: v for k, v in document.items() if v is not None}, _File)
    except ValueError as error:  # msgspec's own, and of half of a surrogate pair
        raise ScalingConfigError(f"{error}") from None
    for name in ("upscaling_speed", "idle_timeout_minutes"):
        if not math.isfinite(getattr(file, name)):
            raise ScalingConfigError(f"{name} is a number, not {getattr(file, name)}.")
    kind = str(file.provider.get("type") or "")
    if kind in _FAKE:
        kind = "fake"
    types = _types(file, kind)
    most = file.max_workers
    if most is None:
        most = sum(one.max_workers for one in types.values())
    return ScalingConfig(
        name=file.cluster_name, kind=kind, types=types, most=most, speed=file.upscaling_speed,
        idle_s=60.0 * file.idle_timeout_minutes, document=document,
    )  # fmt: skip


def _types(file: _File, kind: str) -> dict[str, NodeType]:
    declared = dict(file.available_node_types or {})
    if file.head_node_type is not None:
        if declared and file.head_node_type not in declared:
            raise ScalingConfigError(
                f"head_node_type {file.head_node_type!r} is none of available_node_types."
            )
        declared.pop(file.head_node_type, None)
    machines = file.provider.get("worker_ips") or []
    if not isinstance(machines, list):
        raise ScalingConfigError("provider.worker_ips is a list of addresses.")
    there_are = len(machines)
    if not declared and kind == "local":
        least = there_are if file.min_workers is None else file.min_workers
        most = there_are if file.max_workers is None else file.max_workers
        most = min(most, there_are)
        declared = {LOCAL_TYPE: _Type(min_workers=min(least, most), max_workers=most)}
    if not declared:
        raise ScalingConfigError("available_node_types names no type of workers.")
    types = {}
    for name, one in declared.items():
        where = f"available_node_types.{name}"
        if not _NAME.fullmatch(str(name)):
            raise ScalingConfigError(
                f"{where}: a type is a label of its nodes: give letters, digits, '-', '_' and '.', "
                "at most 63."
            )
        try:
            to_units(one.resources)
            check_node_labels(dict(one.labels))
        except (TypeError, ValueError) as error:
            raise ScalingConfigError(f"{where}: {error}") from None
        if one.idle_timeout_s is not None and not math.isfinite(one.idle_timeout_s):
            raise ScalingConfigError(f"{where}.idle_timeout_s is a number of seconds.")
        if {INSTANCE_LABEL, TYPE_LABEL} & one.labels.keys():
            raise ScalingConfigError(f"{where}.labels: the autoscaler sets {TYPE_LABEL} itself.")
        if not one.resources and kind != "local":
            raise ScalingConfigError(f"{where}.resources says what a node of it has: CPU, GPU, ...")
        of_all = one.min_workers if file.max_workers is None else file.max_workers
        most = of_all if one.max_workers is None else one.max_workers
        if one.min_workers > most:
            raise ScalingConfigError(
                f"{where}: min_workers {one.min_workers} is more than max_workers {most}."
            )
        types[str(name)] = NodeType(
            name=str(name), resources=one.resources, labels=one.labels,
            node_config=one.node_config or {}, min_workers=one.min_workers, max_workers=most,
            idle_timeout_s=one.idle_timeout_s, priority=one.priority,
        )  # fmt: skip
    return types


def _refuse_near_misses(where: str, entry: object) -> None:
    """A key that is almost one of ours is a mistake, and not the provider's."""
    for key in entry if isinstance(entry, dict) else ():
        if key in _Type.__struct_fields__:
            continue
        near = difflib.get_close_matches(str(key), _Type.__struct_fields__, 1, 0.8)
        if near:
            raise ScalingConfigError(f"{where}.{key} is no key. Did you mean {near[0]}?")


def _with_variables(given: Any) -> Any:
    """``${NAME}`` in values is that variable of the environment."""
    if isinstance(given, dict):
        return {key: _with_variables(value) for key, value in given.items()}
    if isinstance(given, list):
        return [_with_variables(value) for value in given]
    if not isinstance(given, str):
        return given

    def value_of(found: re.Match[str]) -> str:
        value = os.environ.get(found[1])
        if value is None:
            raise ScalingConfigError(f"{found[0]}: the environment has no variable {found[1]}.")
        return value

    return _VARIABLE.sub(value_of, given)
