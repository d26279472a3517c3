"""The task stream with a mouse: pan, zoom, and what each task is, by Bokeh in a frame.

A widget, so that a megabyte of scripts does not go into the saved notebook: there the static
picture stands in its place.
"""

from __future__ import annotations

from typing import Any

import ipywidgets
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure

from ..pictures.task_stream import Stream
from ..worker.display import bokeh_frame
from .standing import Standing

_GREY, _GRID, _RED = "#8a919c", "#8a919c33", "#d64541"
_ROW = 22


class StreamZoom(Standing, ipywidgets.HTML):  # type: ignore[misc]
    """A stream that can be looked into."""

    def __init__(self, stream: Stream) -> None:
        """Show ``stream`` as it is now."""
        self.standing_for = stream
        super().__init__(self.hiding_style() + bokeh_frame(plot(stream)))
        self.add_class("nbray-stream-zoom")
        self.layout.max_width = "860px"


def plot(stream: Stream) -> Any:
    """The stream as a Bokeh figure."""
    rows: dict[str, list[Any]] = {
        key: [] for key in ("left", "right", "row", "colour", "alpha", "name", "words")
    }
    for place, (_, spans) in enumerate(stream.lanes):
        for span in spans:
            colour = _RED if span.failed else stream.colour(span.name)
            values = (
                span.start, span.end, place, _GREY if span.cancelled else colour,
                0.5 if span.running else 1.0, span.name, span.words(),
            )  # fmt: skip
            for key, value in zip(rows, values, strict=True):
                rows[key].append(value)
    number = len(stream.lanes)
    shown = figure(
        height=_ROW * number + 90, sizing_mode="stretch_width",
        y_range=Range1d(start=number - 0.5, end=-0.5),
        tools="xpan,xwheel_zoom,xbox_zoom,reset,save", active_scroll="xwheel_zoom",
        toolbar_location="above", x_axis_label="seconds",
    )  # fmt: skip
    shown.hbar(
        y="row", left="left", right="right", height=0.75, color="colour", alpha="alpha",
        line_color=None, source=ColumnDataSource(rows),
    )  # fmt: skip
    shown.add_tools(HoverTool(tooltips=[("", "@words")]))
    shown.background_fill_color = shown.border_fill_color = None
    shown.outline_line_color = None
    shown.toolbar.logo = None
    shown.yaxis.ticker = list(range(number))
    shown.yaxis.major_label_overrides = {i: label for i, (label, _) in enumerate(stream.lanes)}
    for axis in (*shown.xaxis, *shown.yaxis):
        axis.major_label_text_color = axis.axis_label_text_color = _GREY
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _GRID
    shown.xgrid.grid_line_color, shown.ygrid.grid_line_color = _GRID, None
    return shown
