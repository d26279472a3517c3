"""Which link to the dashboard a browser can follow, as the kernel's environment tells."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit
from urllib.response import addinfourl

from nbray.common.extras import how_to_install

TEMPLATE = "NBRAY_DASHBOARD_LINK"
_HUB = "JUPYTERHUB_SERVICE_PREFIX"
_PROBE_S = 3.0


class NotThereError(Exception):
    """No browser can see the dashboard by way of this notebook's server."""


def link_of(
    url: str,
    login: str,
    environment: Mapping[str, str],
    *,
    template: str = "",
    colab: Callable[[int], str] | None = None,
    servers: Callable[[], list[str]] = list,
    page: str = "",
) -> str:
    """The link for a browser that shows this notebook.

    Args:
        url: the dashboard's "host:port".
        login: the link that logs a browser in there, good where its port can be reached: on this
            machine, and in VS Code, which forwards ports of the machine where the kernel runs.
        environment: the kernel's. It tells of JupyterHub, GitHub Codespaces and code-server.
        template: goes before all that; ``NBRAY_DASHBOARD_LINK`` in the environment is one, too.
            ``{host}``, ``{port}``, ``{path}`` (with the key that logs in) and variables' names in
            braces are replaced; of these, what is not set stays as it stands.
        colab: where the kernel is Google Colab's: the address of a port for its browser.
        servers: the URLs of the Jupyter servers on this machine. Behind JupyterHub, nbray's
            extension of the server shows the dashboard, or else jupyter-server-proxy.
        page: which of its pages; ``login`` leads there.

    Raises:
        NotThereError: it is behind JupyterHub and none of the two is there; says what to install.
    """
    host, _, port = url.rpartition(":")
    parts = urlsplit(login)
    path = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    template = template or environment.get(TEMPLATE, "")
    if template:
        for name, value in {**environment, "host": host, "port": port, "path": path}.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    if _HUB in environment:
        return _behind_hub(environment[_HUB], port, path, servers(), page)
    if colab is not None:
        return f"{colab(int(port)).rstrip('/')}/{path}"
    if "CODESPACE_NAME" in environment:
        domain = environment.get("GITHUB_CODESPACES_PORT_FORWARDING_DOMAIN", "app.github.dev")
        return f"https://{environment['CODESPACE_NAME']}-{port}.{domain}/{path}"
    if "VSCODE_PROXY_URI" in environment:
        base = environment["VSCODE_PROXY_URI"].replace("{{port}}", port)
        return f"{base.rstrip('/')}/{path}"
    return login


def _behind_hub(prefix: str, port: str, path: str, servers: list[str], page: str) -> str:
    prefix = prefix.rstrip("/")
    mine = [server for server in servers if urlsplit(server).path.rstrip("/") == prefix]
    if mine and not _has_extension(mine[0]):
        if _status(f"{mine[0].rstrip('/')}/proxy/{port}/") != 404:
            return f"{prefix}/proxy/{port}/{path}"
        raise NotThereError(
            "the Jupyter server of this notebook shows no ports of its machine. Install nbray "
            f"where the server runs ({how_to_install('notebook')}) and start it anew; or "
            f"jupyter-server-proxy; or set dashboard_link by %nbray config, or {TEMPLATE}."
        )
    return f"{prefix}/nbray/{port}/{page}"


def _has_extension(server: str) -> bool:
    try:
        with _open(f"{server.rstrip('/')}/nbray/version") as reply:
            return "nbray" in json.load(reply)
    except (OSError, ValueError):
        return False


def _status(url: str) -> int:
    try:
        with _open(url) as reply:
            return reply.status or 404
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 404


def _open(url: str) -> addinfourl:
    # No proxy of the environment stands between a kernel and its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    reply: addinfourl = opener.open(url, timeout=_PROBE_S)
    return reply


def colab_ports() -> Callable[[int], str] | None:
    """Where a browser finds a port of this machine; None unless this is a kernel of Google Colab.

    See https://colab.research.google.com/notebooks/snippets/advanced_outputs.ipynb.
    """
    try:
        from google.colab.output import eval_js
    except ImportError:
        return None
    return lambda port: str(eval_js(f"google.colab.kernel.proxyPort({port})"))


def jupyter_servers() -> list[str]:
    """The URLs of this user's Jupyter servers on this machine."""
    try:
        from jupyter_server.serverapp import list_running_servers
    except ImportError:
        return []
    return [str(server["url"]) for server in list_running_servers()]
