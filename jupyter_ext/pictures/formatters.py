"""Pictures of nbray's handles, as HTML and as text, registered with IPython's formatters.

They stand here and not on the classes: the runtime knows nothing of notebooks, cells or colours.
A picture fetches nothing; it says what this process knows at the moment when it is made, and a
saved notebook keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nbray.common.text import one_line
from nbray.exceptions import NbrayError
from nbray.notebook import ActorHandle, ActorState, NodeState, ObjectRef, ObjectRefGenerator, engine

from . import theme
from .tables import as_bytes

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

Facts = list[tuple[str, object]]
CellLabel = Callable[[int], str]


class Formatters:
    """How handles look in one notebook."""

    def __init__(self, cell_label: CellLabel) -> None:
        """``cell_label`` says which cell an origin is, as ``In [3]``, or "" if it knows none."""
        self._cell_label = cell_label

    def install(self, shell: InteractiveShell) -> None:
        """Show handles by these pictures from now on."""
        self._each(shell, self._for_types())

    def uninstall(self, shell: InteractiveShell) -> None:
        """Show them as any other object again."""
        assert shell.display_formatter is not None
        for kind in self._for_types():
            for mime in ("text/html", "text/plain"):
                shell.display_formatter.formatters[mime].pop(kind, None)

    def _each(self, shell: InteractiveShell, pictures: dict[type, Picture]) -> None:
        assert shell.display_formatter is not None
        formatters = shell.display_formatter.formatters
        for kind, picture in pictures.items():
            formatters["text/html"].for_type(kind, _html(picture))
            formatters["text/plain"].for_type(kind, _text(picture))
        formatters["text/html"].for_type(engine().cluster.context_type, self._context_html)

    def _for_types(self) -> dict[type, Picture]:
        return {
            engine().api.ObjectRef: self.ref,
            engine().api.ActorHandle: self.actor,
            engine().api.ObjectRefGenerator: self.generator,
            engine().cluster.context_type: self.context,
            NodeState: self.node,
            engine().placement_group: self.placement_group,
            ActorState: self.actor_state,
        }

    def _context_html(self, context: Any) -> str:
        title, facts = self.context(context)
        if context.dashboard_url is None:
            return str(theme.facts(title, facts, "picture"))
        url = context.login_link() or f"http://{context.dashboard_url}/"
        link = ("dashboard", theme.anchor(url, context.dashboard_url))
        facts = [fact for fact in facts if fact[0] != "dashboard"]
        return str(theme.facts(title, facts, "picture", link))

    # --- what is said of each --------------------

    def ref(self, ref: ObjectRef) -> tuple[str, Facts]:
        """State, type, size, place and origin of a ref's value."""
        title = "ObjectRef"
        if not engine().api.is_initialized():
            return title, [("", "no cluster"), ("id", ref.hex())]
        facts = engine().tasks.describe(ref)
        where = "this process" if facts.inline else ", ".join(n.hex()[:8] for n in facts.nodes)
        return title, [
            ("", facts.state),
            ("", facts.kind if facts.state == "ready" else ""),
            ("size", as_bytes(facts.size) if facts.size is not None else ""),
            ("in" if facts.inline else "on node", where),
            ("from", self._cell_label(facts.origin)),
            ("id", ref.hex()),
        ]

    def context(self, context: Any) -> tuple[str, Facts]:
        """What `nbray.init` returns: where the cluster and its dashboard are, and versions."""
        return "nbray", [
            ("cluster", str(context.get("address", ""))),
            ("dashboard", context.dashboard_url or "none"),
            ("nbray", context.nbray_version),
            ("Python", context.python_version),
        ]

    def generator(self, generator: ObjectRefGenerator) -> tuple[str, Facts]:
        """A stream of refs: of which task."""
        ref = generator.completed()
        facts = engine().tasks.describe(ref) if engine().api.is_initialized() else None
        running = facts is not None and facts.state == "pending"
        return "ObjectRefGenerator", [
            ("", "its task runs or waits" if running else "its task has ended"),
            ("from", self._cell_label(facts.origin) if facts is not None else ""),
            ("task", ref.task_id().hex()),
        ]

    def actor(self, handle: ActorHandle) -> tuple[str, Facts]:
        """Class, state, name, place and methods of an actor."""
        class_name, actor_id, names = engine().actor_words(handle)
        title = f"Actor {class_name}({actor_id[:12]})"
        row = None
        if engine().api.is_initialized():
            try:
                row = engine().state.get_actor(actor_id, timeout=2)
            except NbrayError:
                row = None  # the picture says less while the cluster does not answer
        facts: Facts = self._actor_facts(row) if row is not None else [("", "state unknown")]
        return title, [*facts, ("methods", ", ".join(sorted(names)))]

    def placement_group(self, group: Any) -> tuple[str, Facts]:
        """State, strategy, bundles and places of a placement group."""
        title = f"PlacementGroup {group.id.hex()[:12]}"
        row = None
        if engine().api.is_initialized() and not group.is_empty:
            try:
                row = engine().state.get_placement_group(group.id.hex(), timeout=2)
            except NbrayError:
                row = None  # the picture says less while the cluster does not answer
        if row is None:
            return title, [("", "no group" if group.is_empty else "state unknown")]
        facts: Facts = [
            ("", row.state.lower()), ("", row.strategy), ("name", row.name),
            ("because", " ".join(row.reasons)),
        ]  # fmt: skip
        for index, bundle in enumerate(row.bundles or ()):
            amounts = ", ".join(f"{name} {n:g}" for name, n in bundle["unit_resources"].items())
            place = f" on node {bundle['node_id'][:8]}" if bundle["node_id"] else ", not placed"
            facts.append((f"bundle {index}", amounts + place))
        return title, facts

    def actor_state(self, row: ActorState) -> tuple[str, Facts]:
        """A row of the table of actors."""
        return f"Actor {row.class_name}({row.actor_id[:12]})", self._actor_facts(row)

    def _actor_facts(self, row: ActorState) -> Facts:
        return [
            ("", row.state.lower()),
            ("name", row.name or ""),
            ("node", (row.node_id or "")[:8]),
            ("pid", row.pid or ""),
            ("because", row.death_text),
        ]

    def node(self, row: NodeState) -> tuple[str, Facts]:
        """A row of the table of nodes."""
        return f"Node {row.node_id[:12]}", [
            ("", row.state.lower()),
            ("", "head" if row.is_head_node else ""),
            ("at", f"{row.hostname} ({row.node_ip})"),
            *(
                (name, f"{row.resources_available.get(name, 0.0):g} of {amount:g} free")
                for name, amount in sorted(row.resources_total.items())
                if not name.startswith("node:") and not name.endswith("memory")
            ),
        ]


Picture = Callable[[Any], tuple[str, Facts]]


def _shown(facts: Iterable[tuple[str, object]]) -> list[tuple[str, object]]:
    return [(name, value) for name, value in facts if value not in ("", None)]


def _html(picture: Picture) -> Callable[[Any], str]:
    def render(value: Any) -> str:
        title, facts = picture(value)
        html: str = theme.facts(title, facts, "picture")
        return html

    return render


def _text(picture: Picture) -> Callable[[Any, Any, bool], None]:
    def render(value: Any, printer: Any, _cycle: bool) -> None:
        title, facts = picture(value)
        words = ", ".join(f"{name} {value}".strip() for name, value in _shown(facts))
        printer.text(one_line(f"<{title}: {words}>"))

    return render
