"""The page: graphs that are streamed and tables that are exchanged when the cluster has news.

Every text of a cluster is escaped by the templates: names and errors are the user's.
"""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path
from typing import Any

from bokeh.application import Application
from bokeh.application.handlers.function import FunctionHandler
from bokeh.document import Document
from bokeh.models import ColumnDataSource, DataRange1d, InlineStyleSheet
from bokeh.models.annotations import Title
from bokeh.models.widgets import Div
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.server.tornado import BokehTornado
from jinja2 import Environment, FileSystemLoader, Template, select_autoescape
from tornado.ioloop import IOLoop

from nbray.state.text import size_text

from .gate import log_request
from .watcher import POINTS_KEPT, Point, Watcher

_HERE = Path(__file__).parent / "templates"
_POLL_MS = 500
_ROWS_SHOWN = 200
_GREY, _GRID = "#8a919c", "#8a919c33"
_PARTS = ("summary", "nodes", "tasks", "demand", "failures", "actors", "workers", "jobs")
_GRAPHS: dict[str, tuple[str, dict[str, str]]] = {
    "rates": ("Tasks per second", {"finished": "#2f81f7", "failed": "#e5534b"}),
    "use": (
        "CPU, memory and object store, %",
        {"cpu": "#2f81f7", "memory": "#bb8009", "store": "#2da44e"},
    ),
}


class _Pages(BokehTornado):
    """Scripts are found beside the page, also when a proxy puts a prefix before both."""

    def resources(self, absolute_url: str | bool | None = None) -> Resources:
        return Resources(mode="server", root_url="./", path_versioner=None)


def templates() -> Environment:
    """The tables' templates, and what they need."""
    found = Environment(loader=FileSystemLoader(_HERE), autoescape=select_autoescape())
    found.filters.update(bytes=size_text, ago=_ago, amounts=_amounts)
    return found


def serve_page(watcher: Watcher) -> BokehTornado:
    """The Bokeh application, started on the running event loop."""
    tables = templates()

    def fill(document: Document) -> None:
        _Page(document, watcher, tables)

    pages = _Pages(
        {"/": Application(FunctionHandler(fill))},
        # The gate has judged the origin already; Bokeh's own list is of fixed names.
        extra_websocket_origins=["*"],
        sign_sessions=True, secret_key=secrets.token_bytes(32),
        # The page's token is readable by scripts: no cookie and no header goes into it.
        include_headers=[], include_cookies=[],
        use_index=False, redirect_root=False, websocket_max_message_size_bytes=1 << 20,
        log_function=log_request,
    )  # fmt: skip
    logging.getLogger("bokeh.server.tornado").setLevel(logging.ERROR)
    pages.initialize(IOLoop.current())
    pages.start()
    return pages


class _Page:
    """One open page."""

    def __init__(self, document: Document, watcher: Watcher, templates: Environment) -> None:
        self._watcher = watcher
        self._templates = templates
        self._seen = -1
        self._latest = 0.0
        style = InlineStyleSheet(css=(_HERE / "tables.css").read_text())
        self._parts = {
            name: Div(
                name=name, sizing_mode="stretch_width", disable_math=True, stylesheets=[style]
            )
            for name in _PARTS
        }
        self._source = ColumnDataSource(self._columns(list(watcher.points)))
        for name, (title, lines) in _GRAPHS.items():
            document.add_root(_graph(name, title, lines, self._source))
        for part in self._parts.values():
            document.add_root(part)
        document.title = "nbray"
        document.template = Template((_HERE / "page.html").read_text())
        self._update()
        watcher.joined()
        document.on_session_destroyed(lambda _context: watcher.left())
        document.add_periodic_callback(self._update, _POLL_MS)

    def _columns(self, points: list[Point]) -> dict[str, Any]:
        if points:
            self._latest = points[-1].time
        columns = {
            name: [getattr(point, name) for point in points]
            for _title, lines in _GRAPHS.values()
            for name in lines
        }
        return {"time": [point.time * 1000 for point in points], **columns}

    def _update(self) -> None:
        snapshot = self._watcher.snapshot
        if snapshot.number == self._seen:
            return
        self._seen = snapshot.number
        new = [point for point in self._watcher.points if point.time > self._latest]
        if new:
            self._source.stream(self._columns(new), rollover=POINTS_KEPT)
        facts = {
            "s": snapshot, "most": _ROWS_SHOWN, "now_ms": time.time() * 1000,
            "address": self._watcher.client.address,
        }  # fmt: skip
        for name, part in self._parts.items():
            text = self._templates.get_template(f"{name}.html").render(facts)
            if text != part.text:
                part.text = text


_SHARE: Any = (0, 100)  # Bokeh takes a pair for a range, its annotations do not


def _graph(name: str, title: str, lines: dict[str, str], source: ColumnDataSource) -> Any:
    share = title.endswith("%")
    graph = figure(
        name=name, title=Title(text=title, text_color=_GREY), height=200,
        y_range=_SHARE if share else DataRange1d(start=0), sizing_mode="stretch_width",
        x_axis_type="datetime",
        tools="", toolbar_location=None, background_fill_alpha=0, border_fill_alpha=0,
        outline_line_color=None,
    )  # fmt: skip
    for column, color in lines.items():
        graph.line(
            "time", column, source=source, color=color, line_width=2, legend_label=column
        )  # fmt: skip
    graph.legend.label_text_color = _GREY
    for axis in graph.axis:
        axis.major_label_text_color = axis.axis_line_color = _GREY
        axis.major_tick_line_color = axis.minor_tick_line_color = None
    graph.grid.grid_line_color = _GRID
    legend = graph.legend[0]
    graph.add_layout(legend, "below")  # beside the curves, which it would cover
    legend.location, legend.orientation = "left", "horizontal"
    legend.background_fill_alpha, legend.border_line_color = 0, None
    return graph


def _ago(time_ms: float | None, now_ms: float) -> str:
    if not time_ms:
        return ""
    seconds = max(0.0, (now_ms - time_ms) / 1000)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds // 5 * 5:.0f} s"


def _amounts(resources: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {size_text(n) if name == 'memory' else format(n, 'g')}"
        for name, n in resources.items()
        if not name.startswith("node:")
    )
