"""A widget and the static picture that stands in its place where no kernel feeds it.

A widget's output in a saved notebook is empty, or a complaint, wherever its model is gone. So the
picture is an output of its own, and the widget carries a style that hides it: the picture is seen
when the widget is not.
"""

from __future__ import annotations

import uuid
from typing import Any, Protocol

from IPython.display import publish_display_data

_WIDGET = "application/vnd.jupyter.widget-view+json"


class Static(Protocol):
    """What has a picture as text and as HTML."""

    def _repr_html_(self) -> str: ...


class Standing:
    """Mixed into a widget whose picture is `standing_for`."""

    standing_for: Static | None = None

    def hiding_style(self) -> str:
        """HTML for the widget, which hides the picture while the widget is there."""
        self._static_name = f"nbray-static-{uuid.uuid4().hex[:12]}"
        return f"<style>.{self._static_name}{{display:none}}</style>"

    def _ipython_display_(self, **_options: Any) -> None:
        bundle: dict[str, Any] = self._repr_mimebundle_()  # type: ignore[attr-defined]
        if self.standing_for is not None:
            html = self.standing_for._repr_html_()
            publish_display_data(  # type: ignore[no-untyped-call]
                {
                    "text/plain": repr(self.standing_for),
                    "text/html": f'<div class="{self._static_name}">{html}</div>',
                }
            )
            bundle = {"text/plain": "", _WIDGET: bundle[_WIDGET]}
        publish_display_data(bundle)  # type: ignore[no-untyped-call]
