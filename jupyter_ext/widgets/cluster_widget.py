"""The cluster as a widget: what `%nbray status` shows where widgets work.

Only ipywidgets' core controls. Live while at least one of its views is open (`_view_count` is
kept by the front end); buttons that destroy ask first. The feed's thread and the kernel's
callbacks may come at the same time: both go through one lock, and slow work is done in threads
of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import ipywidgets

from nbray.notebook import engine

from ..pictures import theme
from . import cluster_view
from .cluster_view import ClusterSnapshot
from .feed import Feed
from .standing import Standing, Static

shared_feed = Feed()


class ClusterWidget(Standing, ipywidgets.VBox):  # type: ignore[misc]
    """Nodes, work and buttons, live.

    ``display(ClusterWidget())``, or `%nbray status`.
    """

    def __init__(self, fallback: Static | None = None, feed: Feed = shared_feed) -> None:
        """``fallback`` is shown, as text and HTML, where there are no widgets."""
        self.standing_for = fallback
        self._feed = feed
        self._lock = threading.RLock()
        self._pending: Callable[[], None] | None = None
        self._title = ipywidgets.HTML()
        self._node_table = ipywidgets.HTML()
        self._work = ipywidgets.HTML()
        self._notice = ipywidgets.HTML()
        self._add = self._button("Add a node", "plus", self._on_add)
        self._remove = self._button("Remove a node", "minus", self._on_remove)
        self._stop = self._button("Stop", "power-off", self._on_stop)
        self._yes = self._button("Yes", "check", self._on_yes, style="danger")
        self._no = self._button("No", "times", self._on_no)
        self._question = ipywidgets.HTML()
        style = ipywidgets.HTML(self.hiding_style())
        style.layout.display = "none"
        self._asking = ipywidgets.HBox([self._question, self._yes, self._no])
        self._asking.layout.display = "none"
        self._asking.layout.align_items = "center"
        buttons = ipywidgets.HBox([self._add, self._remove, self._stop])
        for row in (buttons, self._asking):
            row.layout.flex_flow = "row wrap"
        super().__init__(
            [
                self._title,
                self._node_table,
                self._work,
                buttons,
                self._asking,
                self._notice,
                style,
            ],
            layout=ipywidgets.Layout(
                border=f"1px solid {theme.BORDER}",
                padding="6px 10px",
                width="fit-content",
                max_width="100%",
                overflow="auto",
            ),
        )
        self.add_class("nbray-cluster")
        self._view_count = 0
        self.observe(self._on_views, "_view_count")
        feed.say_at_the_end(self._show)
        self._show(feed.snapshot())

    def _button(
        self,
        label: str,
        icon: str,
        action: Callable[[ipywidgets.Button], None],
        style: str = "",
    ) -> ipywidgets.Button:
        button = ipywidgets.Button(description=label, icon=icon, button_style=style)
        button.layout.width = "auto"
        button.on_click(action)
        return button

    # --- live while shown --------------------

    def _on_views(self, _change: object) -> None:
        if self._view_count:
            self._feed.subscribe(self._show)
        else:
            self._feed.unsubscribe(self._show)

    def close(self) -> None:
        """End the widget."""
        self._feed.unsubscribe(self._show)
        super().close()

    def _show(self, snapshot: ClusterSnapshot) -> None:
        here = engine().cluster.membership()
        address = here.address if here is not None else ""
        if here is not None and here.reconnecting:
            address += f", {here.reconnecting}"
        with self._lock:
            self._set(self._title, cluster_view.title_html(snapshot, address))
            self._set(self._node_table, cluster_view.nodes_html(snapshot))
            self._set(self._work, "" if snapshot.error else cluster_view.work_html(snapshot))
            over = snapshot.is_last or not engine().api.is_initialized()
            self._add.disabled = self._stop.disabled = over
            self._remove.disabled = over or not engine().cluster.nodes.added()

    def _set(self, widget: ipywidgets.HTML, html: str) -> None:
        if widget.value != html:
            widget.value = html

    # --- buttons --------------------

    def _on_add(self, _button: ipywidgets.Button) -> None:
        self._work_on("Starting a node ...", _add_node)

    def _on_remove(self, _button: ipywidgets.Button) -> None:
        self._ask(
            "Remove the node that was added last? What runs there is run again elsewhere.",
            lambda: self._work_on("Removing the node ...", _remove_node),
        )

    def _on_stop(self, _button: ipywidgets.Button) -> None:
        self._ask(
            "Stop the cluster? Its tasks, actors and values end.",
            lambda: self._work_on("Stopping ...", self._stop_cluster),
        )

    def _stop_cluster(self) -> str:
        here = engine().cluster.membership()
        if here is None:
            return "nbray does not run."
        engine().api.shutdown()
        return (
            f"{engine().cluster.command} is stopped."
            if here.started_here
            else f"Left {here.address}; it runs on."
        )

    def _ask(self, question: str, action: Callable[[], None]) -> None:
        with self._lock:
            self._pending = action
            self._question.value = f"<b>{theme.escape(question)}</b>"
            self._asking.layout.display = ""

    def _on_yes(self, _button: ipywidgets.Button) -> None:
        with self._lock:
            action, self._pending = self._pending, None
            self._asking.layout.display = "none"
        if action is not None:
            action()

    def _on_no(self, _button: ipywidgets.Button) -> None:
        with self._lock:
            self._pending = None
            self._asking.layout.display = "none"

    def _work_on(self, notice: str, action: Callable[[], str]) -> None:
        """Do something slow without holding up the kernel, and say how it went."""

        def work() -> None:
            try:
                said = action()
            except Exception as error:  # whatever it was, the person who clicked is told
                said = f'<span style="color:{theme.BAD}">{theme.escape(error)}</span>'
            with self._lock:
                self._notice.value = said
            self._feed.refresh()

        with self._lock:
            self._notice.value = str(theme.muted(notice))
        threading.Thread(target=work, name="nbray-widget", daemon=True).start()


def _add_node() -> str:
    return f"Node {engine().cluster.nodes.add()[:8]} is there."


def _remove_node() -> str:
    return f"Node {engine().cluster.nodes.remove()[:8]} is gone."
