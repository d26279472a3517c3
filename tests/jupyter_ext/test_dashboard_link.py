"""`%nbray dashboard`: the link that this notebook's browser can follow."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from support.kernel import running_notebook
from support.web import fetch

from nbray.dashboard.parts.plots import PLOTS as DASHBOARD_PLOTS
from nbray.jupyter_ext.commands.dashboard import COMMANDS
from nbray.jupyter_ext.commands.dashboard import PLOTS as CELL_PLOTS
from nbray.jupyter_ext.commands.dashboard_link import NotThereError, link_of

URL, LOGIN = "127.0.0.1:8265", "http://127.0.0.1:8265/login?key=k"


@pytest.mark.parametrize(
    ("environment", "link"),
    [
        ({}, LOGIN),
        ({"VSCODE_PID": "7"}, LOGIN),
        ({"JUPYTERHUB_SERVICE_PREFIX": "/user/jo/"}, "/user/jo/nbray/8265/"),
        (
            {"NBRAY_DASHBOARD_LINK": "https://x/{USER}/{port}/{unknown}", "USER": "jo"},
            "https://x/jo/8265/{unknown}",
        ),
        (
            {"NBRAY_DASHBOARD_LINK": "/p/{host}", "JUPYTERHUB_SERVICE_PREFIX": "/user/jo/"},
            "/p/127.0.0.1",
        ),
        (
            {"CODESPACE_NAME": "blue-42"},
            "https://blue-42-8265.app.github.dev/login?key=k",
        ),
        (
            {"VSCODE_PROXY_URI": "https://code.example/proxy/{{port}}/"},
            "https://code.example/proxy/8265/login?key=k",
        ),
    ],
)
def test_5_9_the_link_is_right_wherever_the_notebook_is(
    environment: dict[str, str], link: str
) -> None:
    assert link_of(URL, LOGIN, environment) == link
    asked = "https://y/{path}"
    assert link_of(URL, LOGIN, environment, template=asked) == "https://y/login?key=k"


def test_colab_is_asked_where_its_browser_finds_the_port() -> None:
    colab = "https://x-8265-colab.googleusercontent.com/"
    link = link_of(URL, LOGIN, {}, colab=lambda port: colab.replace("8265", str(port)))
    assert link == "https://x-8265-colab.googleusercontent.com/login?key=k"


def test_every_plot_of_the_dashboard_can_be_named_in_a_cell() -> None:
    assert set(CELL_PLOTS) == set(DASHBOARD_PLOTS)
    (command,) = COMMANDS
    text = command.parser().format_help()
    assert all(name in " ".join(text.split()) for name in DASHBOARD_PLOTS)


class _Server(BaseHTTPRequestHandler):
    """A Jupyter server behind a hub: what it has besides is in ``paths``."""

    paths: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        body = self.paths.get(self.path)
        self.send_response(404 if body is None else 200)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is logged."""


def test_behind_a_hub_it_is_seen_what_the_server_has() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    hub = {"JUPYTERHUB_SERVICE_PREFIX": "/user/jo/"}
    url = f"http://127.0.0.1:{server.server_port}/user/jo/"
    try:
        _Server.paths = {}
        with pytest.raises(NotThereError, match="Install nbray where the server runs"):
            link_of(URL, LOGIN, hub, servers=lambda: [url])
        _Server.paths = {"/user/jo/proxy/8265/": b""}
        link = link_of(URL, LOGIN, hub, servers=lambda: ["http://127.0.0.1:1/other/", url])
        assert link == "/user/jo/proxy/8265/login?key=k"
        _Server.paths = {"/user/jo/nbray/version": b'{"nbray": "0.1.0"}'}
        assert link_of(URL, LOGIN, hub, servers=lambda: [url]) == "/user/jo/nbray/8265/"
        plot = link_of(URL, LOGIN, hub, servers=lambda: [url], page="plot?name=cpu")
        assert plot == "/user/jo/nbray/8265/plot?name=cpu"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


def test_the_link_logs_a_browser_in_and_a_cluster_without_dashboard_says_so(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_INCLUDE_DASHBOARD", "1")
    with running_notebook() as notebook:
        link = notebook.run("%nbray dashboard").result
        assert link.startswith("http://127.0.0.1:")
        status, _body, headers = fetch(link)
        assert status == 302 and "Set-Cookie" in headers
        assert "IFrame" in notebook.run("%nbray dashboard --iframe").result
        assert "IFrame" in notebook.run("%nbray dashboard task-stream").result
        notebook.run("%nbray stop")
        notebook.run("import os; os.environ['NBRAY_INCLUDE_DASHBOARD'] = '0'")
        notebook.run("%nbray start --head --num-cpus 1")
        assert "this cluster has none" in notebook.run("%nbray dashboard").printed
