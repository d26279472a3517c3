"""The plots: each has a name, which is its address, a figure, and how its data come.

Figures are made by Bokeh once and kept as JSON; the browser draws them, and gets data through the
page's socket. Bokeh is imported with the first figure. Colours are those that can be told apart on
dark and on light ground.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .spans import BAD, DIM, Spans, lanes

_GRID = "#8a919c33"
_BLUE, _AMBER, _GREEN, _VIOLET = "#2f81f7", "#bb8009", "#2da44e", "#a371f7"
SPANS = {"5m": 300.0, "15m": 900.0, "1h": 3600.0, "6h": 21600.0, "1d": 86400.0, "14d": 1209600.0}
STREAM_S = 60.0
_MOST_DRAWN = 1500
_STREAM_EVERY_MS = 1900.0
Columns = dict[str, Any]


class Series(Protocol):
    """A history, as `nbray.common.history` has it."""

    columns: tuple[str, ...]

    def rows(self, since: float, now: float, most: int = 1500) -> list[tuple[float, ...]]:
        """Time and values after ``since``."""


@dataclass
class Sources:
    """Where plots find their data."""

    spans: Spans
    figures: Figures
    history: Callable[[str], Series | None]


@dataclass(frozen=True)
class Data:
    """What the browser gets: all columns anew, or some rows ``more``; and where to go on."""

    columns: Columns
    more: bool
    cursor: Any
    lanes: Sequence[str] | None = None
    note: str = ""


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        name: its address.
        title: in words.
        data: from the sources, the query and a cursor to what is new; None if nothing is.
        figure: makes Bokeh's figure.
        of_node: whether it is there for one node, too.
    """

    name: str
    title: str
    data: Callable[[Sources, Mapping[str, str], Any], Awaitable[Data | None]]
    figure: Callable[[], Any]
    of_node: bool = True


def _lines(
    name: str, title: str, lines: Mapping[str, str], unit: str, *, of_node: bool = True,
    total: str = "",
) -> Plot:  # fmt: skip
    """A plot of columns of the history over time; ``unit`` is %, bytes, bytes/s or empty."""

    async def data(sources: Sources, query: Mapping[str, str], cursor: Any) -> Data | None:
        series = sources.history(query.get("node", ""))
        if series is None:
            return None
        now = time.time()
        reach = SPANS.get(query.get("span", ""), SPANS["15m"])
        since = cursor if cursor is not None else now - reach
        if cursor is not None and now - cursor < reach / 1000:
            return None
        rows = series.rows(now - reach, now)
        if not rows or (cursor is not None and rows[-1][0] <= since):
            return None
        coarse = reach > SPANS["15m"]
        new = rows if cursor is None or coarse else [row for row in rows if row[0] > since]
        places = [series.columns.index(column) + 1 for column in lines]
        columns: Columns = {"time": [row[0] * 1000 for row in new]}
        for place, column in zip(places, lines, strict=True):
            columns[column] = [None if math.isnan(row[place]) else row[place] for row in new]
        if total:
            place = series.columns.index(total) + 1
            for column in lines:
                columns[column] = [
                    None if value is None or not row[place] else 100 * value / row[place]
                    for value, row in zip(columns[column], new, strict=True)
                ]
        more = cursor is not None and not coarse
        return Data(columns, more, rows[-1][0])

    return Plot(name, title, data, functools.partial(_line_figure, lines, unit), of_node)


def _line_figure(lines: Mapping[str, str], unit: str) -> Any:
    from bokeh.models import (
        BasicTicker,
        ColumnDataSource,
        DataRange1d,
        HoverTool,
        NumeralTickFormatter,
    )

    figure = _figure(x_axis_type="datetime", y_range=DataRange1d(start=0), height=170)
    source = ColumnDataSource({"time": [], **{name: [] for name in lines}}, name="data")
    form = {"%": "0", "bytes": "0.0 d", "bytes/s": "0.0 d"}.get(unit, "0,0.[0]")
    for column, colour in lines.items():
        shown = column.replace("_", " ")
        figure.line("time", column, source=source, color=colour, line_width=2, legend_label=shown)
    figure.yaxis.ticker = BasicTicker(desired_num_ticks=4)
    figure.yaxis.formatter = NumeralTickFormatter(format=form)
    tips = [("", "@time{%F %T}")]
    tips += [(name.replace("_", " "), f"@{name}{{{form}}}{unit[5:] or unit[:1]}" if unit != "bytes"
              else f"@{name}{{{form}}}") for name in lines]  # fmt: skip
    hover = HoverTool(tooltips=tips, formatters={"@time": "datetime"}, mode="vline")
    hover.renderers = figure.renderers[:1]
    figure.add_tools(hover)
    _legend_below(figure)
    return figure


async def _stream_data(sources: Sources, query: Mapping[str, str], cursor: Any) -> Data | None:
    now = time.time() * 1000
    if cursor is not None and now - cursor < _STREAM_EVERY_MS:
        return None
    await sources.spans.look()
    reach = SPANS.get(query.get("span", ""), STREAM_S) * 1000
    found = sources.spans.since(now - reach)
    if node := query.get("node"):
        found = [span for span in found if span.node_id == node]
    known = len(found)
    if known > _MOST_DRAWN:
        found.sort(key=lambda span: (not span.failed, bool(span.end), span.start - span.end))
        found = sorted(found[:_MOST_DRAWN], key=lambda span: span.start)
    names, placed, without = lanes(found, now)
    columns: Columns = {
        key: [] for key in ("lane", "left", "right", "colour", "alpha", "name", "took", "how", "id")
    }
    for number, span in placed:
        cancelled = span.error == "TASK_CANCELLED"
        colour = BAD if span.failed else DIM if cancelled else sources.spans.colour(span.name)
        end = span.end or now
        columns["lane"].append(names[number])
        columns["left"].append(round(span.start, 1))
        columns["right"].append(round(end, 1))
        columns["colour"].append(colour)
        columns["alpha"].append(1.0 if span.end else 0.5)
        columns["name"].append(span.name)
        columns["took"].append(round((end - span.start) / 1000, 5))
        columns["how"].append(span.error or span.state)
        columns["id"].append(span.task_id)
    notes = []
    if known > _MOST_DRAWN:
        notes.append(f"{_MOST_DRAWN:,} of {known:,} are drawn: what failed or runs, the longest.")
    if without:
        notes.append(f"{without} more workers are not drawn.")
    if sources.spans.left_out:
        notes.append(f"Missing: {sources.spans.left_out}.")
    return Data(columns, False, now, names, " ".join(notes))


def _stream_figure() -> Any:
    from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Range1d, TapTool

    figure = _figure(
        x_axis_type="datetime", y_range=FactorRange(), x_range=Range1d(start=0, end=1), height=260,
        output_backend="canvas",
    )  # fmt: skip
    names = ("lane", "left", "right", "colour", "alpha", "name", "took", "how", "id")
    source = ColumnDataSource({name: [] for name in names}, name="data")
    figure.hbar(
        y="lane", left="left", right="right", height=0.8, source=source, fill_color="colour",
        fill_alpha="alpha", line_color="colour", line_width=0.5, nonselection_fill_alpha="alpha",
    )  # fmt: skip
    figure.add_tools(HoverTool(tooltips=[
        ("", "@name"), ("took", "@took{0.000} s"), ("state", "@how"), ("in", "@lane"),
    ]), TapTool())  # fmt: skip
    figure.ygrid.grid_line_color = None
    return figure


def _figure(**options: Any) -> Any:
    from bokeh.models import DatetimeTicker, DatetimeTickFormatter
    from bokeh.plotting import figure

    made = figure(
        sizing_mode="stretch_width", tools="xpan,xbox_zoom,xwheel_zoom,reset,save",
        toolbar_location="above", background_fill_alpha=0, border_fill_alpha=0,
        outline_line_color=None, min_border_right=12, **options,
    )  # fmt: skip
    made.toolbar.autohide = made.toolbar_inner = True
    made.toolbar.logo = None
    made.toolbar.active_scroll = None
    made.xaxis.formatter = DatetimeTickFormatter(
        context=None, seconds="%H:%M:%S", minsec="%H:%M:%S", minutes="%H:%M", hourmin="%H:%M",
        hours="%H:%M", days="%b %d",
    )  # fmt: skip
    made.xaxis.ticker = DatetimeTicker(desired_num_ticks=5)
    for axis in made.axis:
        axis.major_label_text_font_size = "10px"
        axis.major_label_text_color = axis.axis_line_color = DIM
        axis.major_tick_line_color = axis.minor_tick_line_color = None
    made.grid.grid_line_color = _GRID
    return made


def _legend_below(figure: Any) -> None:
    legend = figure.legend[0]
    legend.label_text_color = DIM
    legend.label_text_font_size = "11px"
    figure.add_layout(legend, "below")  # beside the curves, which it would cover
    legend.location, legend.orientation = "left", "horizontal"
    legend.background_fill_alpha, legend.border_line_color = 0, None
    legend.click_policy, legend.padding = "hide", 0


PLOTS = {
    plot.name: plot
    for plot in (
        Plot("task-stream", "Task stream", _stream_data, _stream_figure),
        _lines("tasks", "Tasks per second", {"finished": _BLUE, "failed": BAD}, "", of_node=False),
        _lines("cpu", "CPU, %", {"cpu": _BLUE}, "%"),
        _lines("memory", "Memory, %", {"memory_used": _AMBER}, "%", total="memory_total"),
        _lines("store", "Object store", {"store_used": _GREEN, "spilled": _VIOLET}, "bytes"),
        _lines("network", "Network", {"received": _BLUE, "sent": _AMBER}, "bytes/s"),
        _lines("disk", "Disk", {"read": _BLUE, "written": _AMBER}, "bytes/s"),
        _lines("disk-used", "Disk in use, %", {"disk_used": _VIOLET}, "%", total="disk_total"),
        _lines("gpu", "GPUs, %", {"gpu": _GREEN}, "%"),
        _lines(
            "gpu-memory",
            "Memory of GPUs, %",
            {"gpu_memory": _VIOLET},
            "%",
            total="gpu_memory_total",
        ),
        _lines("waiting", "Waiting and workers", {"waiting": BAD, "workers": _BLUE}, ""),
        _lines("nodes", "Nodes alive", {"nodes": _GREEN}, "", of_node=False),
    )
}


@functools.cache
def figure_json(name: str) -> str:
    """What the browser makes the plot of; KeyError for a name that none has."""
    from bokeh.embed import json_item

    return json.dumps(json_item(PLOTS[name].figure()))


class Figures:
    """The figures' JSON, made in a thread: to import Bokeh takes a second, or many."""

    def __init__(self) -> None:
        self._made: dict[str, str] = {}
        self._making: asyncio.Task[None] | None = None

    def ready(self, name: str) -> str | None:
        """That of a plot; None while none is made yet, which is begun."""
        if name not in self._made and self._making is None:
            self._making = asyncio.create_task(self._make())
        return self._made.get(name)

    async def _make(self) -> None:
        for name in PLOTS:
            self._made[name] = await asyncio.to_thread(figure_json, name)


def bokeh_folder() -> Path:
    """Where Bokeh's scripts are; it is not imported."""
    found = importlib.util.find_spec("bokeh")
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / "server" / "static"
