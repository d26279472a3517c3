"""Tables that sort, filter, search and page, and say what they leave out.

What is shown is decided by the page's query, so that an address says it: ``sort=-failed``, ``q=``
the text that is searched, ``page=2``, and a column's key with the value that it shall have
(``state=ALIVE``; of ids the beginning will do). A second table on a page has a prefix
before its keys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .html import Markup, address, join, muted, tag
from .words import count

Row = TypeVar("Row")

PAGE_ROWS = 50
_MOST_CHOICES = 12


@dataclass(frozen=True)
class Column(Generic[Row]):
    """One column.

    Attributes:
        key: its name in addresses.
        title: its head.
        value: what is sorted, searched and filtered by.
        shown: what stands in the cell; the value by default.
        number: whether it stands at the right, and is sorted from the greatest by a first click.
        choices: whether its values are offered as filters, with counts.
        hidden: whether it is searched and filtered by only.
    """

    key: str
    title: str
    value: Callable[[Row], Any]
    shown: Callable[[Row], object] | None = None
    number: bool = False
    choices: bool = False
    hidden: bool = False


@dataclass(frozen=True)
class Query:
    """The part of a page's query that is for one table."""

    page: str
    all: Mapping[str, str]
    prefix: str = ""

    def get(self, key: str) -> str:
        """What it says of a key."""
        return self.all.get(self.prefix + key, "")

    def link(self, **changed: object) -> str:
        """The address with some keys changed; the first page of the table, unless that is said."""
        keys = {"page": "", **changed}
        return address(
            self.page, {**self.all, **{self.prefix + key: value for key, value in keys.items()}}
        )


class Table(Generic[Row]):
    """The columns of a kind of rows.

    Args:
        columns: from left to right.
        noun: what a row is.
        order: what the rows are sorted by unless somebody says otherwise, in words.
        prefix: of the keys in addresses.
        plural: of the noun.
    """

    def __init__(
        self,
        columns: Sequence[Column[Row]],
        noun: str,
        order: str = "",
        prefix: str = "",
        plural: str = "",
    ) -> None:
        self._columns = {column.key: column for column in columns}
        self._noun = noun
        self._plural = plural or noun + "s"
        self._order = order
        self.prefix = prefix

    def search(self, page: str, query: Mapping[str, str]) -> Markup:
        """The field for what is searched."""
        mine = Query(page, query, self.prefix)
        return tag(
            "input",
            type="search",
            class_="search",
            placeholder=f"Search {self._plural}",
            value=mine.get("q"),
            data_key=f"{self.prefix}q",
            aria_label=f"Search {self._plural}",
        )

    def select(self, rows: Iterable[Row], mine: Query) -> list[Row]:
        """The rows that pass the filters and the search, sorted."""
        found = list(rows)
        for key, column in self._columns.items():
            if wanted := mine.get(key):
                found = [row for row in found if _matches(column.value(row), wanted)]
        if words := mine.get("q").casefold().split():
            found = [row for row in found if self._has(row, words)]
        return self._sorted(found, mine.get("sort"))

    def _has(self, row: Row, words: Sequence[str]) -> bool:
        text = " ".join(_text(column.value(row)) for column in self._columns.values()).casefold()
        return all(word in text for word in words)

    def _sorted(self, rows: list[Row], sort: str) -> list[Row]:
        column = self._columns.get(sort.removeprefix("-"))
        if column is None:
            return rows
        down = sort.startswith("-")
        known = [row for row in rows if column.value(row) not in (None, "")]
        unknown = [row for row in rows if column.value(row) in (None, "")]
        return sorted(known, key=lambda row: _sortable(column.value(row)), reverse=down) + unknown

    def body(
        self, page: str, query: Mapping[str, str], rows: Sequence[Row], missing: Iterable[str] = ()
    ) -> Markup:
        """The table, with its filters above and what is left out below.

        Args:
            page: the page's name.
            query: its query.
            rows: all rows there are, in their usual order.
            missing: sentences on what the rows lack.
        """
        mine = Query(page, query, self.prefix)
        found = self.select(rows, mine)
        most = (len(found) - 1) // PAGE_ROWS + 1 if found else 1
        number = min(most, max(1, _number(mine.get("page"))))
        first = (number - 1) * PAGE_ROWS
        shown = found[first : first + PAGE_ROWS]
        notes = [*missing]
        if len(found) < len(rows):
            notes.insert(
                0, f"{len(found):,} of {count(len(rows), self._noun, self._plural)} match."
            )
        parts = [self._filters(mine, rows), *(tag("p", note, class_="note") for note in notes)]
        if shown:
            visible = [column for column in self._columns.values() if not column.hidden]
            head = tag("tr", *(self._head(column, mine) for column in visible))
            lines = [
                tag("tr", *(_cell(column, row) for column in visible), class_=_mark(row))
                for row in shown
            ]
            table = tag("table", tag("thead", head), tag("tbody", *lines))
            parts.append(tag("div", table, class_="scroll"))
        else:
            parts.append(tag("p", "None." if not rows else "None of them matches.", class_="dim"))
        if len(found) > len(shown):
            parts.append(self._pages(mine, number, most, first, len(shown), len(found)))
        return join(parts)

    def _head(self, column: Column[Row], mine: Query) -> Markup:
        now = mine.get("sort")
        up, down = column.key, f"-{column.key}"
        first, second = (down, up) if column.number else (up, down)
        following = {first: second, second: ""}.get(now, first)
        mark = {up: " ▴", down: " ▾"}.get(now, "")
        link = tag("a", column.title + mark, href=mine.link(sort=following), class_="sort")
        return tag("th", link, class_="number" if column.number else None)

    def _filters(self, mine: Query, rows: Sequence[Row]) -> Markup:
        """What may be chosen with how many rows it has, and what else is filtered by."""
        groups: list[Markup] = []
        for column in self._columns.values():
            wanted = mine.get(column.key)
            if not column.choices:
                if wanted:
                    text = f"{column.title}: {wanted} ✕"
                    groups.append(
                        tag(
                            "a",
                            text,
                            href=mine.link(**{column.key: ""}),
                            class_="chip on",
                            title="Show all",
                        )
                    )
                continue
            counts = Counter(_text(column.value(row)) for row in rows)
            if len(counts) < 2 and not wanted:
                continue
            offered = [name for name, _ in counts.most_common(_MOST_CHOICES) if name]
            if wanted and wanted not in offered:
                offered.append(wanted)
            chips = [
                tag(
                    "a",
                    f"{name.lower().replace('_', ' ') if name.isupper() else name} ",
                    muted(f"{counts[name]:,}"),
                    href=mine.link(**{column.key: "" if name == wanted else name}),
                    class_="chip on" if name == wanted else "chip",
                )
                for name in offered
            ]
            groups.append(tag("span", *chips, class_="chips"))
        return tag("div", *groups, class_="filters") if groups else Markup("")

    def _pages(
        self, mine: Query, number: int, most: int, first: int, shown: int, found: int
    ) -> Markup:
        order = f", {self._order}" if self._order and not mine.get("sort") else ""
        text = f"{first + 1:,} to {first + shown:,} of {found:,} are shown{order}. "
        links = [
            tag("a", title, href=mine.link(page=there), class_="chip")
            for title, there in (
                ("First", 1),
                ("Previous", number - 1),
                ("Next", number + 1),
                ("Last", most),
            )
            if 1 <= there <= most and there != number
        ]
        return tag("p", text, *links, class_="pages")


def _cell(column: Column[Row], row: Row) -> Markup:
    inside = column.value(row) if column.shown is None else column.shown(row)
    if inside is None:
        inside = ""
    if column.number and isinstance(inside, int):
        inside = f"{inside:,}"
    return tag("td", inside, class_="number" if column.number else None)


def _mark(row: Any) -> str | None:
    state = getattr(row, "state", "")
    return "ended" if state in ("DEAD", "REMOVED") else None


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _matches(value: Any, wanted: str) -> bool:
    text = _text(value)
    if text.casefold() == wanted.casefold():
        return True
    is_id = (
        len(wanted) >= 4 and len(text) >= 8 and not set(wanted.lower()) - set("0123456789abcdef")
    )
    return is_id and text.startswith(wanted.lower())


def _sortable(value: Any) -> tuple[int, Any]:
    """Numbers before texts: a column may have both."""
    if isinstance(value, (int, float)):
        return (0, value)
    return (1, str(value).casefold())


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 1
