"""How nbray's pictures look: one small set of HTML pieces, right in dark and in light.

Colours are JupyterLab's variables where they exist; elsewhere the text's own colour and tints of
it, which are right on any ground (so VS Code, nbconvert's pages and `prefers-color-scheme` need no
case of their own). Everything is inline style, so a saved notebook needs no style sheet.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from nbray.common.text import encodable

BORDER = "var(--jp-border-color2, rgba(128,128,128,.35))"
MUTED = "var(--jp-ui-font-color2, rgba(128,128,128,1))"
BRAND = "var(--jp-brand-color1, #2a7fd4)"
GOOD = "var(--jp-success-color1, #2e9d4c)"
BAD = "var(--jp-error-color1, #d64541)"
LINK = "var(--jp-content-link-color, #2a7fd4)"
TRACK = "rgba(128,128,128,.22)"

_CARD = (
    f"border:1px solid {BORDER};border-radius:4px;padding:6px 10px;margin:2px 0;"
    "display:inline-block;max-width:100%;box-sizing:border-box;overflow-x:auto;"
    "font-family:var(--jp-ui-font-family, system-ui, sans-serif);"
    "font-size:var(--jp-ui-font-size1, 13px);line-height:1.5;"
    "color:var(--jp-ui-font-color1, inherit)"
)


# As `html.escape` has them, which brings a table of two thousand names into each worker.
_ENTITIES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"},
)


def escape(text: object) -> str:
    """``text`` as HTML, which Jupyter can send."""
    return encodable(str(text)).translate(_ENTITIES)


def card(body: str, kind: str) -> str:
    """A frame; ``kind`` becomes its class, ``nbray-KIND``."""
    return f'<div class="nbray-{kind}" style="{_CARD}">{body}</div>'


def muted(text: object) -> str:
    """Text that steps back."""
    return f'<span style="color:{MUTED}">{escape(text)}</span>'


def bar(share: float, colour: str = BRAND, failed: float = 0.0, width: str = "160px") -> str:
    """A bar that is ``share`` full, of which ``failed`` stands at its end in red."""
    share, failed = min(max(share, 0.0), 1.0), min(max(failed, 0.0), 1.0)
    parts = "".join(
        f'<span style="display:block;height:100%;width:{part:.1%};background:{tint}"></span>'
        for part, tint in ((max(0.0, share - failed), colour), (failed, BAD))
        if part
    )
    return (
        f'<span role="progressbar" aria-valuenow="{share:.0%}" style="display:inline-flex;'
        f"width:{width};height:8px;border-radius:4px;overflow:hidden;background:{TRACK};"
        f'vertical-align:middle">{parts}</span>'
    )


def facts(
    title: str, pairs: Iterable[tuple[str, object]], kind: str, link: tuple[str, str] | None = None
) -> str:
    """A card with a title and named facts, which wrap between facts.

    ``link`` is one more fact: its name, and the HTML of its value.
    """
    values = [(name, escape(value)) for name, value in pairs if value not in ("", None)]
    values += [link] if link is not None else []
    shown = "".join(
        f'<span style="white-space:nowrap">{muted(name)} {value}</span>'
        if name
        else f'<span style="white-space:nowrap">{value}</span>'
        for name, value in values
    )
    body = f"<b>{escape(title)}</b>{shown}"
    row = "display:flex;flex-wrap:wrap;gap:0 16px;align-items:baseline"
    return card(f'<div style="{row}">{body}</div>', kind)


def anchor(url: str, text: str) -> str:
    """A link that opens beside the notebook."""
    return (
        f'<a href="{escape(url)}" target="_blank" rel="noopener" '
        f'style="color:{LINK}">{escape(text)}</a>'
    )


def grid(
    columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Container[int] = ()
) -> str:
    """A table; its cells are HTML. The columns in ``numbers`` stand at the right."""

    def cell(tag: str, place: int, html: str) -> str:
        side = "right" if place in numbers else "left"
        style = f"text-align:{side};padding:1px 16px 1px 0;border:none;white-space:nowrap"
        return f'<{tag} style="{style}">{html}</{tag}>'

    head = "".join(cell("th", place, muted(column)) for place, column in enumerate(columns))
    body = "".join(
        '<tr style="background:none">'
        + "".join(cell("td", place, item) for place, item in enumerate(row))
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(columns) else ""
    return (
        '<table style="border-collapse:collapse;margin:2px 0;font-size:inherit;line-height:1.6;'
        'color:inherit;font-variant-numeric:tabular-nums;border:none">'
        f"{head}<tbody>{body}</tbody></table>"
    )
