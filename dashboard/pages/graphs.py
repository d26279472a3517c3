"""Metrics: minutes to days, out of the rings that the dashboard keeps; no other server."""

from __future__ import annotations

from ..parts.html import Markup, join, link, muted, tag
from ..parts.page import Look, Page, Section
from ..parts.plots import PLOTS, SPANS

_DEFAULT = "15m"


async def show(look: Look) -> list[Section]:
    """All plots over one time."""
    reach = look.get("span") if look.get("span") in SPANS else _DEFAULT
    node = look.get("node")
    chips = [
        tag(
            "a",
            f"last {span}",
            href=f"graphs?span={span}" + (f"&node={node}" if node else ""),
            class_="chip on" if span == reach else "chip",
        )
        for span in SPANS
    ]
    query = {"span": reach, **({"node": node} if node else {})}
    words = muted(
        "Kept on the head's disk: 15 minutes by the second, a day by 15 s, 14 days by 3 "
        "min; of nodes an hour by 5 s, 2 days by the minute."
    )
    nodes = await look.cluster.nodes()
    has_gpus = any("gpu_percent" in one.stats for one in nodes)
    plots = [
        Section(
            f"{name}-{reach}",
            link(plot.title, "plot", name=name, **query),
            plot=name,
            plot_query=query,
            wide=False,
        )
        for name, plot in PLOTS.items()
        if name != "task-stream"
        and (plot.of_node or not node)
        and (has_gpus or not name.startswith("gpu"))
    ]
    title: Markup = join(("Metrics", f" of node {node[:8]}" if node else " of the cluster"))
    more = tag(
        "p",
        "For Prometheus: ",
        tag("code", "/metrics"),
        "; it finds this dashboard by ",
        tag("code", "/api/prometheus/sd"),
        ". Dashboards for Grafana are in deploy/grafana.",
    )
    return [
        Section("choose", title, more, join((tag("span", *chips, class_="chips"), words))),
        *plots,
    ]


PAGES = (Page("graphs", "Metrics", show),)
