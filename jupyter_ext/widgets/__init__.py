"""The cluster as a widget, where ipywidgets is installed and a front end can show it."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..pictures.task_stream import Stream
    from .standing import Static

__all__ = ["available", "cluster", "zoom"]


def available() -> bool:
    """Whether ipywidgets is installed."""
    return importlib.util.find_spec("ipywidgets") is not None


def cluster(fallback: Static | None = None) -> object:
    """A new cluster widget; ``fallback`` is shown where there are no widgets.

    Raises:
        ImportError: ipywidgets is not installed.
    """
    from .cluster_widget import ClusterWidget

    return ClusterWidget(fallback)


def zoom(stream: Stream) -> object:
    """A task stream that can be panned and zoomed; its static picture where there are no widgets.

    Raises:
        ImportError: ipywidgets or Bokeh is not installed.
    """
    from .stream_zoom import StreamZoom

    return StreamZoom(stream)
