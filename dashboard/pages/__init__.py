"""The pages, one module each: what it shows is made of `dashboard.parts`.

A page imports no other page, no handler and no socket; what it links to it names by address.
"""

from __future__ import annotations

from ..parts.page import Page
from . import (
    actors,
    bandwidth,
    events,
    flames,
    graph,
    graphs,
    groups,
    jobs,
    logs,
    nodes,
    objects,
    overview,
    plot,
    profile,
    task,
    tasks,
    timeline,
    worker,
)

PAGES: dict[str, Page] = {
    page.name: page
    for module in (
        overview,
        nodes,
        tasks,
        task,
        actors,
        objects,
        jobs,
        groups,
        logs,
        events,
        timeline,
        profile,
        flames,
        graphs,
        worker,
        bandwidth,
        graph,
        plot,
    )
    for page in module.PAGES
}
"""In the order of the menu."""
