"""The pages over HTTP: each at its own address, with what it shows; its socket; what it loads."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.web import Application, RequestHandler, StaticFileHandler

from nbray.state.client import RpcError
from nbray.state.rows import JobState

from .acts import Act, Acts
from .downloads import Log, Trace
from .gate import Authenticator, log_request
from .live import Live, clean_query, section_html, sections_of
from .pages import PAGES
from .parts.cluster import Cluster
from .parts.continuous import Continuous
from .parts.flame import Results
from .parts.html import Markup, address, join, tag
from .parts.page import Look, Page, Section
from .parts.plots import Figures, Sources, bokeh_folder
from .parts.rates import Rates
from .parts.spans import Spans
from .watcher import Watcher

_STATIC = Path(__file__).parent / "static"
_FRAME = (
    '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<meta name="color-scheme" content="light dark"><title>{title}</title>'
    '<link rel="icon" href="data:,">'
    '<link rel="stylesheet" href="static/own/nbray.css?{version}">'
    '<script src="static/own/nbray.js?{version}" defer></script></head>'
    "<body{attributes}><header>{menu}</header>"
    '<p id="trouble" role="status"{hidden}>{trouble}</p><main id="main">{main}</main>'
    "<footer>{footer}</footer></body></html>"
)


class Site:
    """What all handlers share.

    Args:
        cluster: whom pages ask.
        watcher: the series, and whether the GCS answers.
        secret: of this cluster and its dashboard.
        doorkeeper: knows who is logged in.
        jobs: what was submitted, and drivers.
    """

    def __init__(
        self,
        cluster: Cluster,
        watcher: Watcher,
        secret: bytes,
        doorkeeper: Authenticator,
        jobs: Callable[[], Awaitable[list[JobState]]],
    ) -> None:
        self.cluster = cluster
        self.watcher = watcher
        self.spans = Spans(cluster)
        self.rates: Rates[str] = Rates()
        self.flows: Rates[tuple[str, str]] = Rates()
        self.profiles = Results()
        self.continuous = Continuous(cluster)
        self._secret = secret
        self.doorkeeper = doorkeeper
        self._jobs = jobs
        self.ticket = self._mac("ticket")
        self.sources = Sources(
            self.spans,
            Figures(),
            watcher.series,
        )
        self.viewers: set[Live] = set()
        self.version = sha256(
            b"".join(path.read_bytes() for path in sorted(_STATIC.iterdir()))
        ).hexdigest()[:12]

    def _mac(self, what: str) -> str:
        return hmac.new(self._secret, f"nbray page {what}".encode(), sha256).hexdigest()

    def look(self, request: HTTPServerRequest, page: str, query: dict[str, str]) -> Look:
        """A look at a page."""
        can_act = self.doorkeeper.session_of(request) is not None
        return Look(
            self.cluster,
            self.spans,
            self.rates,
            self.flows,
            self.profiles,
            self.continuous,
            self.jobs,
            query,
            page,
            can_act,
        )

    async def jobs(self) -> list[JobState]:
        """What was submitted, and drivers, asked once for all who look."""

        async def ask() -> tuple[list[JobState], float]:
            return await self._jobs(), 0.0

        return await self.cluster.once("jobs", ask)

    def handlers(self) -> list[Any]:
        """The table of handlers."""
        own = {"site": self}
        live = {
            "look": self.look,
            "sources": self.sources,
            "ticket": self.ticket,
            "error": lambda: self.watcher.error,
            "viewers": self.viewers,
        }
        act = {
            "acts": Acts(self.cluster, self.profiles, self.continuous),
            "may_change": self.doorkeeper.may_change,
        }  # fmt: skip
        return [
            (r"/ws", Live, live),
            (r"/act", Act, act),
            (r"/trace\.json", Trace, {"cluster": self.cluster}),
            (r"/log", Log, {"cluster": self.cluster}),
            (r"/static/own/(.*)", _Static, {"path": str(_STATIC)}),
            (r"/static/(js/.*)", _Static, {"path": str(bokeh_folder())}),
            (r"/([a-z-]*)", _Frame, own),
            (r".*", _Missing, own),
        ]


class _Static(StaticFileHandler):
    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "private, max-age=86400")


class _Frame(RequestHandler):
    """A page."""

    def initialize(self, site: Site) -> None:
        self.site = site

    async def get(self, name: str) -> None:
        page = PAGES.get(name)
        if page is None:
            self._missing(name)
            return
        said = {key: self.get_query_argument(key) for key in self.request.query_arguments}
        query = clean_query(said)
        look = self.site.look(self.request, name, query)
        trouble = self.site.watcher.error
        sections: list[Section] = []
        try:
            sections = await sections_of(page, look)
        except RpcError as error:
            trouble = str(error)
        self.set_header("Cache-Control", "no-store")
        self.finish(frame(page, sections, self.site, self.request, trouble))

    def _missing(self, name: str) -> None:
        self.set_status(404)
        text = tag("p", f"There is no page {name!r}. ", tag("a", "The first page", href="./"))
        page = Page(name, "No such page", _nothing)
        self.finish(
            frame(page, [Section("missing", page.title, text)], self.site, self.request, "")
        )


async def _nothing(_look: Look) -> list[Section]:
    return []


class _Missing(_Frame):
    async def get(self, name: str = "") -> None:
        self._missing(self.request.path[1:60])


def frame(
    page: Page, sections: list[Section], site: Site, request: HTTPServerRequest, trouble: str
) -> str:
    """The whole document."""
    menu = [
        tag(
            "a",
            one.title,
            href=address(one.name),
            data_page=one.name,
            aria_current="page" if one.name == (page.under or page.name) else None,
        )
        for one in PAGES.values()
        if not one.under
    ]
    facts = {
        "ticket": site.ticket,
        "page": page.name,
        "known": page.name in PAGES,
        "under": page.under,
        "version": site.version,
        "pages": {one.name: [one.title, one.under] for one in PAGES.values()},
    }
    head = tag("a", "nbray", href="./", class_="brand", data_page="")
    light = tag("button", "◐", type="button", id="theme", title="Light or dark")
    foot = tag("span", site.cluster.client.address, " · "), tag("a", "Log out", href="logout")
    embedded = "embed" in request.query_arguments
    return _FRAME.format(
        title=tag("b", f"{page.title} - nbray")[3:-4],
        version=site.version,
        attributes=Markup(' class="{}" data-facts="{}"').format(
            "embedded" if embedded else "", json.dumps(facts)
        ),
        menu=join([head, tag("nav", *menu), light]),
        main=join(map(section_html, sections)),
        trouble=tag("b", trouble)[3:-4],
        hidden="" if trouble else " hidden",
        footer=join(foot),
    )


def application(site: Site) -> Application:
    """The application of the pages."""
    return Application(
        site.handlers(),
        log_function=log_request,
        websocket_max_message_size=1 << 16,
        websocket_ping_interval=20,
    )
