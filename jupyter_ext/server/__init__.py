"""The Jupyter Server extension: dashboards of the user's clusters below ``/nbray/``.

A browser that may use the Jupyter server sees the dashboards through it, wherever the server is: on
a laptop, behind JupyterHub, behind a tunnel. ``nbray/`` shows the newest cluster, ``nbray/PORT/``
the one whose dashboard has that port, if a session folder of this user knows it: nothing else
can be reached. Only reading is passed on. Requests are signed with the cluster's token, which never
leaves this process, as Jupyter's secrets never do; an answer is passed on only if the dashboard has
signed it, so that nobody who took its port is shown in Jupyter's origin.

What is shown is sandboxed: its scripts run in an origin of their own and cannot use Jupyter. Such a
page sends no cookies when it asks for its scripts and for its socket, so a browser is led to
``nbray/PORT/v/VIEW/``: VIEW is a key that allows these two and nothing else.

It runs in the Jupyter server and not in a kernel: it knows `nbray.state` and the launcher's
sessions, and nothing else of the extension.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: Any) -> None:
    """Add our handlers; Jupyter calls this when it starts."""
    from .handlers import handlers

    server.web_app.add_handlers(".*$", handlers(server.web_app.settings["base_url"]))
