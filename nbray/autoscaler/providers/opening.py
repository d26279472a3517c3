"""A provider by its name in the cluster's file."""

from __future__ import annotations

import importlib
from typing import cast

from nbray.autoscaler.providers.base import Cluster, Provider, ProviderError

_HOMES = {
    "fake": "nbray.autoscaler.providers.fake.FakeProvider",
    "kubernetes": "nbray.autoscaler.providers.kubernetes.KubernetesProvider",
    "local": "nbray.autoscaler.providers.local.LocalProvider",
    "slurm": "nbray.autoscaler.providers.slurm.SlurmProvider",
}


def open_provider(cluster: Cluster) -> Provider:
    """The provider that a cluster's file names.

    Raises:
        ProviderError: there is none of that name, or it cannot be made.
    """
    section = cluster.document.get("provider") or {}
    kind = str(section.get("type"))
    home = section.get("module") if kind == "external" else _HOMES.get(kind)
    if not home:
        known = ", ".join([*_HOMES, "external (with provider.module)"])
        raise ProviderError(f"provider.type {kind!r} is none of {known}.")
    module, _, name = str(home).rpartition(".")
    try:
        made = getattr(importlib.import_module(module), name)(cluster)
    except (ImportError, AttributeError, ValueError) as error:
        raise ProviderError(f"The provider {home} cannot be made: {error}") from error
    return cast(Provider, made)
