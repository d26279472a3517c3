"""`%nbray dashboard`: the link that this notebook's browser can follow."""

from __future__ import annotations

from pathlib import Path

import pytest
from kernel import running_notebook
from test_dashboard import fetch

from nbray.jupyter_ext.dashboard_link import link_of

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
    ],
)
def test_5_9_the_link_is_right_wherever_the_notebook_is(
    environment: dict[str, str], link: str
) -> None:
    assert link_of(URL, LOGIN, environment) == link


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
        notebook.run("%nbray stop")
        notebook.run("import os; os.environ['NBRAY_INCLUDE_DASHBOARD'] = '0'")
        notebook.run("%nbray start --head --num-cpus 1")
        assert "this cluster has none" in notebook.run("%nbray dashboard").printed
