"""Which link to the dashboard a browser can follow, as the kernel's environment tells."""

from __future__ import annotations

from collections.abc import Mapping

TEMPLATE = "NBRAY_DASHBOARD_LINK"
_HUB = "JUPYTERHUB_SERVICE_PREFIX"


def link_of(url: str, login: str, environment: Mapping[str, str]) -> str:
    """The link for a browser that shows this notebook.

    Args:
        url: the dashboard's "host:port".
        login: the link that logs a browser in there, good where its port can be reached: on this
            machine, and in VS Code, which forwards ports of the machine where the kernel runs.
        environment: the kernel's. ``NBRAY_DASHBOARD_LINK`` is a template: ``{host}``, ``{port}``
            and variables' names in braces; of these, what is not set stays as it stands.
            Behind JupyterHub, the extension of the Jupyter server shows the dashboard.
    """
    host, _, port = url.rpartition(":")
    template = environment.get(TEMPLATE)
    if template:
        for name, value in {**environment, "host": host, "port": port}.items():
            template = template.replace(f"{{{name}}}", value)
        return template
    if _HUB in environment:
        return f"{environment[_HUB].rstrip('/')}/nbray/{port}/"
    return login
