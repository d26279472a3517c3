"""One plot alone, at an address of its own: for a cell, a panel, a second screen."""

from __future__ import annotations

from ..parts.html import link, tag
from ..parts.page import Look, NotFoundError, Page, Section
from ..parts.plots import PLOTS


async def show(look: Look) -> list[Section]:
    """The plot that the query names."""
    name = look.get("name")
    if not name:
        items = [tag("li", link(plot.title, "plot", name=key)) for key, plot in PLOTS.items()]
        return [Section("plots", "Plots", tag("ul", *items, class_="plain"))]
    plot = PLOTS.get(name)
    if plot is None:
        raise NotFoundError(f"There is no plot {name!r}; there are {', '.join(PLOTS)}.")
    query = {key: look.get(key) for key in ("node", "span") if look.get(key)}
    return [Section(f"plot-{name}", plot.title, plot=name, plot_query=query)]


PAGES = (Page("plot", "Plot", show, "graphs"),)
