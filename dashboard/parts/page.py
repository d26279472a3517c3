"""What a page is: sections, made anew from the cluster whenever somebody looks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from nbray.state.rows import JobState
from nbray.state.selecting import StateApiException
from nbray.state.short_ids import SHORTEST, full_id

from .cluster import Cluster
from .continuous import Continuous
from .flame import Results
from .html import Markup, muted, tag
from .rates import Rates
from .spans import Spans
from .table import Table

Row = TypeVar("Row")
NOTHING = Markup("")


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        name: of this part, unlike those of the others of the page.
        title: its head; what it counts may change.
        body: what changes.
        fixed: what stands above it and is left alone while somebody is at it: fields, buttons.
        plot: the name of a plot above it.
        plot_query: what the plot is asked with.
        wide: whether it takes the whole width.
    """

    name: str
    title: object
    body: Markup = NOTHING
    fixed: Markup = NOTHING
    plot: str = ""
    plot_query: Mapping[str, str] = field(default_factory=dict)
    wide: bool = True


@dataclass
class Look:
    """One look at a page.

    Attributes:
        cluster: whom to ask.
        spans: what ran lately.
        rates: how fast functions are done.
        flows: how fast objects go from node to node.
        profiles: those that were made.
        continuous: those that are made all the time.
        jobs: what was submitted, and drivers.
        query: the page's query.
        page: its name.
        can_act: whether who looks may change something here.
    """

    cluster: Cluster
    spans: Spans
    rates: Rates[str]
    flows: Rates[tuple[str, str]]
    profiles: Results
    continuous: Continuous
    jobs: Callable[[], Awaitable[list[JobState]]]
    query: Mapping[str, str]
    page: str
    can_act: bool = False

    def get(self, key: str) -> str:
        """What the query says of a key."""
        return self.query.get(key, "")

    def table(
        self, name: str, title: object, table: Table[Row], rows: Sequence[Row],
        missing: Iterable[str] = (), wide: bool = True,
    ) -> Section:  # fmt: skip
        """A section with a table and its field for searching."""
        return Section(
            name, title, table.body(self.page, self.query, rows, missing),
            table.search(self.page, self.query), wide=wide,
        )  # fmt: skip

    def button(self, act: str, text: str, ask: str, **facts: str) -> Markup:
        """A button that changes something, after it was asked whether that is meant."""
        if not self.can_act:
            return muted(
                f"{text}: not possible here. Open the dashboard itself (nbray dashboard) for that."
            )
        said = {f"data_{key}": value for key, value in facts.items()}
        return tag("button", text, type="button", class_="act", data_act=act, data_ask=ask, **said)


@dataclass(frozen=True)
class Page:
    """One page.

    Attributes:
        name: its address; empty for the first.
        title: what the menu calls it.
        show: its sections.
        under: the page of the menu to which it belongs, if it is not in the menu itself.
        needs_id: whether it is about one thing.
        period_s: how often it is made anew.
    """

    name: str
    title: str
    show: Callable[[Look], Awaitable[list[Section]]]
    under: str = ""
    needs_id: bool = False
    period_s: float = 1.0


class NotFoundError(Exception):
    """There is no such thing; says what was looked for."""


def find(
    rows: Sequence[Row], said: str, what: str, identity: Callable[[Row], str],
    names: Callable[[Row], Iterable[str | None]] = lambda row: (),
) -> Row:  # fmt: skip
    """The row with an id, the beginning of one, or a name.

    Raises:
        NotFoundError: there is none, or there are several.
    """
    for row in rows:
        if identity(row) == said:
            return row
    named = [row for row in rows if said and said in names(row)]
    if named:
        return named[0]  # the living come first
    if len(said) >= SHORTEST:
        try:
            whole = full_id(said.lower(), (identity(row) for row in rows))
        except StateApiException as error:
            raise NotFoundError(str(error)) from error
        for row in rows:
            if identity(row) == whole:
                return row
    raise NotFoundError(f"No {what} is known by {said!r}. It may have been forgotten by now.")
