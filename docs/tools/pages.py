"""What MkDocs generates for the site: the reference, the configuration, and the files of the root.

Everything comes from the code itself: names from `public`, settings from `Config`, options of tasks
from their table, the command from click, the magics from their parsers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

sys.path.append(str(Path(__file__).parent))

import described
from public import PAGES, Name, names_of, sections, told_by

ROOT = Path(__file__).parents[2]
ROOT_FILES = {
    "ARCHITECTURE.md": "internals/architecture.md",
    "CONTRIBUTING.md": "internals/contributing.md",
    "CHANGELOG.md": "changes.md",
}
"""Files of the repository's root that are pages, too."""

GENERATED: dict[str, Callable[[], str]] = {
    "configuration.md": described.configuration,
    "reference/command.md": described.command,
    "reference/magics.md": described.magics,
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of the reference in the navigation."""
    pages = ["reference/index.md", *({f"{name}": _page(name)} for name in PAGES)]
    more = [{"The command": "reference/command.md"}, {"The magics": "reference/magics.md"}]
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"] = [*pages, *more]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    texts = {target: page() for target, page in GENERATED.items()}
    texts["reference/index.md"] = _index()
    for module in PAGES:
        texts[_page(module)] = _reference(module)
    for name, target in ROOT_FILES.items():
        texts[target] = _relinked((ROOT / name).read_text(), target)
    for target, text in texts.items():
        files.append(File.generated(config, target, content=text))
    return files


def on_env(env: Any, config: MkDocsConfig, files: Files) -> Any:
    """Refuse a site whose reference lacks a public name.

    Raises:
        PluginError: some have no entry.
    """
    autorefs = config.plugins["autorefs"]
    known = {*autorefs._primary_url_map, *autorefs._secondary_url_map}
    told = [one for module in PAGES for one in told_by(module)]
    lost = [str(one) for one in told if _has_entry(one) and str(one) not in known]
    if lost:
        raise PluginError(f"These public names have no entry: {', '.join(lost)}.")
    return env


def _page(module: str) -> str:
    return f"reference/{module}.md"


def _index() -> str:
    rows = "\n".join(f"| [`{m}`]({m}.md) | {title} |" for m, title in PAGES.items())
    return (
        "# Reference\n\n"
        "Every public name, made from its docstring. The examples run as tests; they take "
        "`import nbray` and a running cluster (`nbray.init()`) for granted.\n\n"
        f"| module | |\n|---|---|\n{rows}\n"
        "| [`nbray`](command.md) | The command |\n"
        "| [`%nbray`, `%%remote`](magics.md) | The magics |\n"
    )


def _reference(module: str) -> str:
    own = told_by(module)
    elsewhere = [one for one in names_of(module) if one not in own]
    parts = [f"# {PAGES[module]}: `{module}`"]
    parts += [_entry(one) for one in own]
    if elsewhere:
        parts.append("## Told elsewhere\n\n" + "\n".join(_links(elsewhere)))
    return "\n\n".join(parts) + "\n"


def _entry(one: Name) -> str:
    if not callable(one.value):
        shown = f"`{one.value!r}`" if isinstance(one.value, str | int) else "An object."
        return f"## `{one.name}`\n\n{shown}"
    if not _has_entry(one):
        return f"## `{one.name}`\n\nAnother name of `{one.value.__name__}`."
    entry = f"::: {one}"
    if "Examples" in sections(one.doc):
        return entry
    fence = one.example if "```" in one.example else f"```pycon\n{one.example}\n```"
    return f"{entry}\n\n**Examples:**\n\n{fence}"


def _has_entry(one: Name) -> bool:
    """Whether a name has a docstring of its own: it is no constant and no second name."""
    return callable(one.value) and one.name == one.value.__name__


def _links(names: list[Name]) -> Iterator[str]:
    first = {id(one.value): one for module in PAGES for one in reversed(told_by(module))}
    for one in names:
        home = first[id(one.value)]
        yield f"- `{one.name}`: see [`{home.module}`]({home.module}.md)"


def _relinked(text: str, target: str) -> str:
    """A file of the root with its links as they are seen from where it becomes a page."""
    up = "../" * target.count("/")

    def link(match: re.Match[str]) -> str:
        path, _, anchor = match[1].partition("#")
        path = ROOT_FILES.get(path, path.removeprefix("docs/"))
        return f"]({up}{path}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\((?!https?:|#)([^)]+)\)", link, text)
