"""The cluster as a widget, where ipywidgets is installed and a front end can show it."""

from __future__ import annotations

import importlib.util

__all__ = ["available", "cluster"]


def available() -> bool:
    """Whether ipywidgets is installed."""
    return importlib.util.find_spec("ipywidgets") is not None


def cluster(fallback: object = None) -> object:
    """A new cluster widget; ``fallback`` is shown where there are no widgets.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    from nbray.jupyter_ext.widgets.cluster_widget import ClusterWidget

    return ClusterWidget(fallback)
