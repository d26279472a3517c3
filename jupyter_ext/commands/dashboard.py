"""``%nbray dashboard``: the link to the dashboard, tried before it is given."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from IPython.core.error import UsageError
from IPython.display import IFrame

from nbray.notebook import engine

from ..pictures import theme
from .base import Command
from .dashboard_link import TEMPLATE, NotThereError, colab_ports, jupyter_servers, link_of
from .parser import Parser

if TYPE_CHECKING:
    from ..workspace import Workspace


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
    parser.add_argument("--iframe", action="store_true", help="show it below this cell")
    parser.add_argument(
        "--height", type=int, default=600, metavar="PIXELS", help="of the frame; 600 by default"
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
    try:
        link = link_of(
            url, context.login_link() or f"http://{url}/", os.environ,
            template=workspace.settings.dashboard_link, colab=colab_ports(),
            servers=jupyter_servers,
        )  # fmt: skip
    except NotThereError as error:
        raise UsageError(f"%nbray dashboard: {error}") from error
    return IFrame(link, "100%", arguments.height) if arguments.iframe else DashboardLink(link)


COMMANDS = (
    Command("dashboard", "A link to the dashboard, right for this notebook's browser.", _dashboard,
            _arguments),
)  # fmt: skip
