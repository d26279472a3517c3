"""``%nbray dashboard``: the link to the dashboard, tried before it is given."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from IPython.core.error import UsageError
from IPython.display import IFrame

from nbray.notebook import engine

from ..pictures import theme
from .base import Command
from .dashboard_link import TEMPLATE, NotThereError, colab_ports, jupyter_servers, link_of
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace


PLOTS = (
    "task-stream", "tasks", "waiting", "cpu", "memory", "store", "network", "disk", "disk-used",
    "nodes", "gpu", "gpu-memory",
)  # fmt: skip
"""Those of the dashboard that have addresses of their own."""
_START_S = 10.0
_AGAIN_S = 0.2


class DashboardLink:
    """A link that opens in a tab of its own, and its text where there are no links."""

    def __init__(self, link: str) -> None:
        self.link = link

    def __repr__(self) -> str:
        return self.link

    def _repr_html_(self) -> str:
        return str(theme.anchor(self.link, self.link.partition("?")[0]))


def _arguments(parser: Parser) -> None:
    parser.add_argument(
        "plot", nargs="?", metavar="PLOT",
        help="a plot, shown below this cell: task-stream, tasks, waiting, cpu, memory, store, "
        "network, disk, disk-used, nodes, gpu, gpu-memory; or a page, as tasks?state=FAILED",
    )  # fmt: skip
    parser.add_argument("--iframe", action="store_true", help="show it below this cell")
    parser.add_argument(
        "--height", type=int, metavar="PIXELS", help="of the frame; 600 by default, 320 of a plot"
    )


def _dashboard(workspace: Workspace, arguments: argparse.Namespace) -> object:
    context = engine().cluster.context()
    url = context.dashboard_url
    if url is None:
        raise UsageError(
            "%nbray dashboard: this cluster has none: it was left out, or it failed; "
            "%nbray logs dashboard.log says why."
        )
    until = time.monotonic() + _START_S  # it starts last, and nobody waits for it
    while refusal := context.probe_dashboard():
        if time.monotonic() < until:
            time.sleep(_AGAIN_S)
            continue
        raise UsageError(
            f"%nbray dashboard: {url} cannot be reached from this kernel: {refusal}. If it serves "
            f"elsewhere, set {TEMPLATE} to a link like https://HOST/{{port}}/."
        )
    page = _page(arguments.plot)
    login = context.login_link()
    if login is not None and page:
        login += f"&to={quote(page, safe='')}"
    try:
        link = link_of(
            url, login or f"http://{url}/{page}", os.environ,
            template=workspace.settings.dashboard_link, colab=colab_ports(),
            servers=jupyter_servers, page=page,
        )  # fmt: skip
    except NotThereError as error:
        raise UsageError(f"%nbray dashboard: {error}") from error
    if arguments.iframe or page:
        return IFrame(link, "100%", arguments.height or (320 if "plot?" in page else 600))
    return DashboardLink(link)


def _page(said: str | None) -> str:
    """The address of a plot alone, or of a page, without what frames it."""
    if not said:
        return ""
    if said in PLOTS:
        return f"plot?name={said}&embed=1"
    return f"{said}{'&' if '?' in said else '?'}embed=1"


COMMANDS = (
    Command("dashboard", "A link to the dashboard, right for this notebook's browser.", _dashboard,
            _arguments),
)  # fmt: skip
