"""The socket of an open page: it says what it shows, and hears what has changed of it.

A page asks with ``{"page", "query", "number"}`` and gets its sections; then, as long as it is
looked at, those that have changed, and rows for its plots. Nothing is made before what was sent has
gone out, so that a browser that does not read costs nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tornado.websocket import WebSocketClosedError, WebSocketHandler

from nbray.state.client import RpcError

from .pages import PAGES
from .parts.html import Markup, join, tag
from .parts.page import Look, NotFoundError, Page, Section
from .parts.plots import PLOTS, Sources

logger = logging.getLogger(__name__)

MOST_VIEWERS = 64
_QUIET_S = 5.0  # then a word without news: a page says when it has heard nothing for 20 s
_SHARE = 16  # a page is made in so small a part of the time at most
_LONGEST_QUERY = 2000
_LONGEST_VALUE = 200


def section_html(section: Section) -> Markup:
    """A section as it is sent first."""
    plot: object = ""
    if section.plot:
        plot = tag(
            "div", class_="plot", data_plot=section.plot, data_query=json.dumps(section.plot_query)
        )
    return tag(
        "section",
        tag("h2", section.title, id=f"h-{section.name}"),
        tag("div", section.fixed, id=f"f-{section.name}", class_="fixed") if section.fixed else "",
        plot,
        tag("div", section.body, id=f"b-{section.name}", class_="body"),
        id=f"s-{section.name}",
        class_="wide" if section.wide else None,
    )


async def sections_of(page: Page, look: Look) -> list[Section]:
    """What a page shows, or why it cannot."""
    try:
        return await page.show(look)
    except NotFoundError as error:
        return [Section("missing", "There is no such thing", tag("p", error))]


def clean_query(said: object) -> dict[str, str]:
    """A page's query as a browser says it; what is none is left out."""
    if not isinstance(said, Mapping) or len(said) > 40:
        return {}
    return {
        str(key)[:60]: value[:_LONGEST_VALUE]
        for key, value in said.items()
        if isinstance(value, str)
    }


class Shown:
    """What a browser shows now, and so what is news for it.

    Attributes:
        number: of its question, by which it knows the answer.
    """

    def __init__(self, page: Page, number: int) -> None:
        self.page = page
        self.number = number
        self._heads: dict[str, str] = {}
        self._bodies: dict[str, str] = {}
        self._fixed: dict[str, str] = {}
        self._plots: dict[tuple[str, str], Any] = {}

    async def news(self, look: Look, sources: Sources, error: str) -> dict[str, Any] | None:
        """The message; None if nothing has changed."""
        sections = await sections_of(self.page, look)
        message: dict[str, Any] = {}
        fixed = {section.name: str(section.fixed) for section in sections}
        parts = [(name, bool(html)) for name, html in fixed.items()]
        if parts != [(name, bool(html)) for name, html in self._fixed.items()]:
            self._plots = {}
            message["main"] = str(join(map(section_html, sections)))
        else:
            message |= self._changed(sections)
        self._heads = {section.name: str(section.title) for section in sections}
        self._bodies = {section.name: str(section.body) for section in sections}
        self._fixed = fixed
        if data := await self._data(sections, sources):
            message["data"] = data
        if not message and not error:
            return None
        return {**message, "number": self.number, "error": error, "time": time.time() * 1000}

    def _changed(self, sections: Sequence[Section]) -> dict[str, Any]:
        bodies = {s.name: str(s.body) for s in sections if str(s.body) != self._bodies[s.name]}
        heads = {
            s.name: str(Markup.escape(s.title))
            for s in sections
            if str(s.title) != self._heads[s.name]
        }
        fixed = {s.name: str(s.fixed) for s in sections if str(s.fixed) != self._fixed[s.name]}
        news = {"bodies": bodies, "heads": heads, "fixed": fixed}
        return {key: value for key, value in news.items() if value}

    async def _data(self, sections: Sequence[Section], sources: Sources) -> list[dict[str, Any]]:
        found = []
        for section in sections:
            if section.plot not in PLOTS:
                continue
            query = json.dumps(section.plot_query)
            key = (section.plot, query)
            figure = None
            if key not in self._plots:
                figure = sources.figures.ready(section.plot)
                if figure is None:
                    continue  # the next time
            data = await PLOTS[section.plot].data(sources, section.plot_query, self._plots.get(key))
            if data is None:
                continue
            self._plots[key] = data.cursor
            found.append(
                {
                    "figure": figure,
                    "plot": section.plot,
                    "query": query,
                    "columns": data.columns,
                    "more": data.more,
                    "lanes": data.lanes,
                    "note": data.note,
                }
            )
        return found


class Live(WebSocketHandler):
    """One open page.

    Args:
        look: makes a look of a page's name and query.
        sources: where plots find their data.
        error: why the GCS does not answer, if it does not.
        ticket: what a page has that came from here; ``viewers`` are the others.
    """

    def initialize(
        self,
        look: Callable[[Any, str, dict[str, str]], Look],
        sources: Sources,
        error: Callable[[], str],
        ticket: str,
        viewers: set[Live],
    ) -> None:
        self._look = look
        self._sources = sources
        self._error = error
        self._ticket = ticket
        self._viewers = viewers
        self._asked = asyncio.Event()
        self._shown: Shown | None = None
        self._query: dict[str, str] = {}
        self._paused = False
        self._task: asyncio.Task[None] | None = None

    def check_origin(self, origin: str) -> bool:
        """The gate has judged it."""
        return True

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Only a page that came from here may open it, and not too many may be open."""
        said = self.request.headers.get("Sec-WebSocket-Protocol", "")
        if self._ticket not in [word.strip() for word in said.split(",")]:
            self.set_status(403)
            self.finish("This page is of another time: load it again.")
            return
        if len(self._viewers) >= MOST_VIEWERS:
            self.set_status(503)
            self.finish(f"{MOST_VIEWERS} pages are open: close one.")
            return
        await super().get(*args, **kwargs)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Any but the ticket."""
        return "nbray" if "nbray" in subprotocols else None

    def open(self, *args: str, **kwargs: str) -> None:
        """The browser is there."""
        self._viewers.add(self)
        self._task = asyncio.create_task(self._run())

    def on_close(self) -> None:
        """It has gone."""
        self._viewers.discard(self)
        if self._task is not None:
            self._task.cancel()

    def on_message(self, message: str | bytes) -> None:
        """What it shows now, or that nobody looks at it."""
        try:
            said = json.loads(message) if len(message) <= 8 * _LONGEST_QUERY else None
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self.close(1008, "That is no question.")
            return
        if "paused" in said:
            self._paused = bool(said["paused"])
        else:
            name, number = str(said.get("page", "")), said.get("number", 0)
            page = PAGES.get(name)
            if page is None or not isinstance(number, int):
                self.close(1008, "There is no such page.")
                return
            self._query = clean_query(said.get("query"))
            if self._shown is None or said.get("anew") or self._shown.page is not page:
                self._shown = Shown(page, number)
            self._shown.number = number
            self._paused = False
        self._asked.set()

    async def _run(self) -> None:
        wait_s: float | None = None
        told = 0.0
        while True:
            try:
                async with asyncio.timeout(wait_s):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()
            shown = self._shown
            if shown is None or self._paused:
                wait_s = None
                continue
            began = time.thread_time()
            wait_s = shown.page.period_s
            message: dict[str, Any] | None
            try:
                look = self._look(self.request, shown.page.name, self._query)
                message = await shown.news(look, self._sources, self._error())
            except RpcError as error:
                message = {"error": str(error) or "It is silent."}
            except Exception:  # of one page: the others go on
                logger.exception("The page %r could not be made", shown.page.name)
                message = {"error": "This page could not be made; dashboard.log says why."}
                wait_s = 10.0
            wait_s = max(wait_s, _SHARE * (time.thread_time() - began))
            if message is None and time.monotonic() - told < _QUIET_S:
                continue
            try:
                await self.write_message(json.dumps(message or {"number": shown.number}))
            except WebSocketClosedError:
                return
            told = time.monotonic()
