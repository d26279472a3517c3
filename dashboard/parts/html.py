"""HTML that is safe by construction: whatever is no `Markup` is escaped when it is put in.

Names, messages and log lines of a cluster are the text of strangers. No page joins strings to HTML;
it calls `tag`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import urlencode

from markupsafe import Markup
from markupsafe import escape as _escape

from nbray.common.text import printable
from nbray.state.text import size_text

__all__ = [
    "DOTS", "Markup", "address", "bar", "bytes_bar", "code", "escape", "facts", "is_short_for",
    "join", "link", "muted", "numbered", "ref", "tag",
]  # fmt: skip

_SHORT = 8
_SHORTEST_WRAPPED = 16
_COUNTED = 24  # so many digits the ids of one process's tasks share; then they count
DOTS = "…"


def escape(value: object) -> Markup:
    """A value as HTML; controls and what turns the direction of writing are made visible."""
    if isinstance(value, Markup):
        return value
    text = value if isinstance(value, str) else str(value)
    return _escape(text if text.isprintable() else printable(text))


def tag(name: str, /, *inside: object, **attributes: object) -> Markup:
    """An element. ``class_`` is written class, ``data_x`` data-x; None leaves an attribute out."""
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{said}>{''.join(map(escape, inside))}</{name}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts one after the other."""
    return Markup(between).join(map(escape, parts))


def address(page: str, query: Mapping[str, object] | None = None) -> str:
    """The address of a page, as it is seen from its neighbours; empty values are left out."""
    said = {key: value for key, value in (query or {}).items() if value not in ("", None)}
    return f"{page or './'}{'?' if said else ''}{urlencode(said, errors='replace')}"


def link(text: object, page: str, **query: object) -> Markup:
    """A link to a page."""
    return tag("a", text, href=address(page, query))


def code(text: object) -> Markup:
    """Text in letters of one width."""
    return tag("code", text)


def muted(text: object) -> Markup:
    """Text that stands back."""
    return tag("span", text, class_="dim")


def numbered(identity: str) -> str:
    """The id of a task or object as tables show it: how it begins, and its number."""
    return f"{identity[:4]}{DOTS}{identity[_COUNTED : _COUNTED + 6]}"


def is_short_for(said: str, identity: str) -> bool:
    """Whether an id is meant by how it begins, or by what `numbered` shows of it."""
    first, dots, number = said.partition(DOTS)
    return identity.startswith(first) and (not dots or identity[_COUNTED:].startswith(number))


def ref(page: str, identity: str | None, text: str = "") -> Markup:
    """A link to the page of one thing, by its short id or ``text``; nothing without an id."""
    if not identity:
        return Markup("")
    shown = text or (numbered(identity) if page == "task" else identity[:_SHORT])
    return tag(
        "a", shown if text else code(shown), href=address(page, {"id": identity}),
        title=identity, class_="short" if len(shown) < _SHORTEST_WRAPPED else None,
    )  # fmt: skip


def bar(share: float, text: object, kind: str = "") -> Markup:
    """A text with a bar of that share (0 to 1) below it."""
    width = f"width:{100 * min(1.0, max(0.0, share)):.1f}%"
    filled = tag("span", style=width, class_=kind or None)
    return join((tag("span", text), tag("div", filled, class_="bar")))


def bytes_bar(used: float, total: float) -> Markup:
    """So many bytes of so many."""
    return bar(used / total if total else 0.0, f"{size_text(used)} of {size_text(total)}")


def facts(pairs: Iterable[tuple[str, object]]) -> Markup:
    """A list of facts; those that are empty are left out."""
    rows = [
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in pairs
        if value not in ("", None)
    ]
    return tag("dl", *rows)
