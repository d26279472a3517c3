"""What a remote cell shows: its last value, and the figures that it leaves open."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from nbray.common.displays import MOST_BYTES
from nbray.common.text import left_out

from . import display as worker_display


def kind_of(value: Any) -> str:
    """What a value is, in a few words: ``ndarray (1000, 10) float64``."""
    words = [type(value).__name__]
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple):
        words.append(str(shape))
        if dtype is not None:
            words.append(str(dtype))
    elif isinstance(value, list | tuple | dict | set | str | bytes):
        words.append(f"of {len(value)}")
    return " ".join(words)


_MOST_PLAIN = 200_000


def bundle_of(value: Any) -> dict[str, Any]:
    """The representations of ``value`` by MIME type, as much of them as a page can show."""
    rich = _representations(value)
    text = rich.pop("text/plain")
    shown, absent = {}, []
    for mime, content in rich.items():
        size = len(content if isinstance(content, str | bytes) else json.dumps(content))
        if size > MOST_BYTES:
            absent.append(f"\n({mime} of {size / 1e6:.0f} MB: too large to be shown)")
        else:
            shown[mime] = content
    if len(text) > _MOST_PLAIN:
        text = text[:_MOST_PLAIN] + left_out(len(text) - _MOST_PLAIN)
    return {"text/plain": "".join([text, *absent]), **shown}


def _representations(value: Any) -> dict[str, Any]:
    """By MIME type; there is always plain text."""
    bundle: dict[str, Any] = {"text/plain": repr(value)}
    if isinstance(value, type):
        return bundle
    package = type(value).__module__.partition(".")[0]
    drawn = package in _DRAWN_BY_IPYTHON or hasattr(value, "_repr_mimebundle_")
    if drawn and importlib.util.find_spec("IPython") is not None:
        return {**worker_display.static_bundle(value), **bundle}
    renderers = {"text/html": "_repr_html_", "text/markdown": "_repr_markdown_",
                 "image/svg+xml": "_repr_svg_", "text/latex": "_repr_latex_"}  # fmt: skip
    for mime, method in renderers.items():
        render: Callable[[], str | None] | None = getattr(value, method, None)
        shown = render() if render is not None else None
        if shown is not None:
            bundle[mime] = shown
    return bundle


_DRAWN_BY_IPYTHON = ("bokeh", "matplotlib")


class Plots:
    """The matplotlib figures that a cell draws. Only looks if the cell imports pyplot."""

    def __init__(self) -> None:
        self._shown: list[Any] = []
        os.environ["MPLBACKEND"] = "agg"
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.switch_backend("agg")
            pyplot.close("all")

    def collect(self) -> list[dict[str, Any]]:
        """Each open figure as a PNG; closes them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return []
        bundles = []
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            self._shown.append(figure)
            picture = io.BytesIO()
            figure.savefig(picture, format="png", bbox_inches="tight")
            encoded = base64.b64encode(picture.getvalue()).decode("ascii")
            bundles.append({"image/png": encoded, "text/plain": repr(figure)})
        pyplot.close("all")
        return bundles

    def has_shown(self, value: Any) -> bool:
        """Whether ``value`` is a figure that has been collected."""
        return any(value is figure for figure in self._shown)
