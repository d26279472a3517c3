"""``%%remote --cache`` at work: a cell is looked up before it is sent, and kept when it has run."""

from __future__ import annotations

import ast
import os
import pkgutil
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FunctionType
from typing import Any, Protocol

from nbray.common.folders import current_folder
from nbray.exceptions import NbrayError
from nbray.notebook import engine

from ..cell.errors import CELL_FILE
from ..cell.local_modules import LocalModules
from ..cell.run import cluster_name, first_line
from ..cell.sending import is_of_the_shell
from ..cell.target import Submitted
from ..cell.text import CellText, read_cell
from ..messages import LAST, Summary, Unpicklable, Unset
from ..output.recording import Recording
from ..pictures.tables import as_bytes
from ..worker.own_values import make_own
from .answers import NotKeptError, Result, as_parts, from_parts
from .hashing import UnhashableError
from .key import Facts, Key, Made, Part, key_of
from .modules import UnknownModuleError
from .modules import facts_of as sources_of
from .store import Answer, Kept, Store, local_key

FOLDER = ".nbray-cache"
_ATTEMPTS = 200
_NEAR = 200
_SHARE = 4
_BY_FOLDER = ("working_dir", "py_modules")


class Settings(Protocol):
    """What a person may set."""

    cache_bytes: int
    cache_folder: str


class Notebook(Protocol):
    """What looking a cell up needs of the notebook."""

    modules: LocalModules

    @property
    def namespace(self) -> dict[str, Any]:
        """Its names."""

    @property
    def settings(self) -> Settings:
        """What a person has set."""

    def transform(self, text: str) -> str:
        """Magics as Python."""

    def resolve(self, names: Sequence[str]) -> None:
        """Have the values of these names here, if they are still in the cluster."""

    def set_up_by(self) -> Sequence[tuple[str, str]]:
        """The set-up cells of its workers: name, and what stands for the content."""


@dataclass
class Attempt:
    """One look-up of a cell.

    Attributes:
        label: the cell, as ``In [3]``.
        source: its text.
        cell_id: what the notebook's document calls it; "" if that is not known.
        made: its key; None when it has none.
        fresh: it was to run in any case.
        refusal: why it is not cached.
        answer: what was kept for it.
        before: the kept cell that is most like it, if there was no answer.
        inputs: what stands for the functions and classes that it reads.
        found: whether there was one.
        told: what became of it.
        keep_alive: the values whose ids ``inputs`` has.
    """

    label: str
    source: str
    cell_id: str = ""
    fresh: bool = False
    made: Made | None = None
    refusal: str = ""
    answer: Answer | None = None
    before: Kept | None = None
    inputs: dict[int, tuple[str, str]] = field(default_factory=dict)
    found: bool = False
    told: str = ""
    keep_alive: list[Any] = field(default_factory=list)


class CellCache:
    """What the cells of a notebook have kept.

    Attributes:
        attempts: the last look-ups, by label.
    """

    def __init__(self, notebook: Notebook) -> None:
        self._notebook = notebook
        self._folder = Path(current_folder())
        self.attempts: OrderedDict[str, Attempt] = OrderedDict()

    def store(self) -> Store:
        """The folder of what is kept.

        Raises:
            OSError: there is no key to sign with.
        """
        settings = self._notebook.settings
        folder = Path(settings.cache_folder or FOLDER).expanduser()
        return Store(self._folder / folder, local_key(), settings.cache_bytes)

    def look(
        self, source: str, label: str, cell_id: str, options: Mapping[str, Any], fresh: bool
    ) -> Attempt:
        """Look a cell up.

        Args:
            source: its text.
            label: what it is called.
            cell_id: of the notebook's document.
            options: of its line, as far as an answer may depend on them.
            fresh: do not take an answer that there is.

        Raises:
            SyntaxError, NotRemoteError: it cannot run anyway.
            BaseException: what a cell raised whose values it reads.
        """
        notebook = self._notebook
        text = read_cell(source, f"{CELL_FILE} {label}>", notebook.namespace, notebook.transform)
        attempt = Attempt(label, source, cell_id, fresh)
        self.attempts[label] = attempt
        self.attempts.move_to_end(label)
        while len(self.attempts) > _ATTEMPTS:
            self.attempts.popitem(last=False)
        try:
            self._find(attempt, text, options)
        except (UnhashableError, UnknownModuleError, NotKeptError, OSError) as error:
            attempt.refusal = str(error)
        return attempt

    def _find(self, attempt: Attempt, text: CellText, options: Mapping[str, Any]) -> None:
        namespace = self._notebook.namespace
        self._notebook.resolve(sorted(text.names.needs & namespace.keys()))
        made = key_of(
            self._facts(text, options), namespace, handle=_stands_for, skip=is_of_the_shell
        )
        attempt.made = made
        self._notebook.modules.bring(made.sources)
        for name in made.names:
            value = namespace.get(name)
            if isinstance(value, FunctionType | type):
                attempt.inputs[id(value)] = ("home", name)
                attempt.keep_alive.append(value)
        store = self.store()
        if not attempt.fresh:
            attempt.answer = store.read(made.key.digest)
        attempt.found = attempt.answer is not None
        if not attempt.found:
            attempt.before = _most_like(store, made.key, attempt)

    def _facts(self, text: CellText, options: Mapping[str, Any]) -> Facts:
        here = current_folder()
        folder = os.path.relpath(here, self._folder) if here else ""
        environment: dict[str, Any] = {"folder": folder}
        for field_name in _BY_FOLDER:
            found = (options.get("runtime_env") or {}).get(field_name)
            for path in found if isinstance(found, list) else [found] if found else []:
                if "://" not in str(path):
                    raise NotKeptError(
                        f"the folder {path} of its runtime_env is sent as it is when the cell runs"
                    )
        if engine().api.is_initialized():
            environment["runtime_env"] = dict(engine().api.get_runtime_context().runtime_env)
        else:
            environment["runtime_env"] = {}
        return Facts(
            ast.parse(text.code), text.names.needs, {**options, "show": text.show}, environment,
            tuple(self._notebook.set_up_by()),
        )  # fmt: skip

    def open(self, attempt: Attempt) -> Result | None:
        """What was kept for a cell; None, and the reason is told, if it cannot be made any more."""
        answer, attempt.answer = attempt.answer, None
        assert answer is not None and attempt.made is not None
        about = answer.about
        try:
            result = from_parts(answer.parts, self._notebook.namespace)
            self._import(about["imports"], result)
        except Exception as error:  # a class of a library, that is another one now
            self.store().drop(attempt.made.key.digest)
            print(f"What was kept for this cell cannot be read ({error}), so it runs.")
            return None
        attempt.told = (
            f"From the cache: nothing that it depends on has changed since {about['label']} ran "
            f"{_ago(about['kept'])}, which took {about['seconds']:.1f} s."
        )
        print(f"{attempt.told}\n%nbray cache why tells more, --cache=refresh runs it.")
        return result

    def _import(self, imports: Mapping[str, str], result: Result) -> None:
        """Modules that the notebook had when the cell ran, and has not now."""
        namespace = self._notebook.namespace
        for name, path in imports.items():
            if name not in result.values and name not in namespace:
                namespace[name] = pkgutil.resolve_name(path)

    def keep(
        self,
        attempt: Attempt,
        sent: Submitted,
        summary: Summary,
        seconds: float,
        recording: Recording,
    ) -> None:
        """Keep what a cell has made, and tell it; what cannot be kept has run all the same."""
        if attempt.made is None:
            attempt.told = f"Not cached: {attempt.refusal}."
            print(attempt.told)
            return
        try:
            size = self._keep(attempt, sent, summary, seconds, recording)
        except KeyboardInterrupt:
            attempt.told = "The cell has run; keeping its answer was interrupted."
        except (NotKeptError, OSError, ValueError, NbrayError) as error:
            attempt.told = f"The cell has run; its answer is not kept: {error}."
        else:
            attempt.told = f"Ran ({self._why(attempt)}); the answer is kept, {as_bytes(size)}."
        hints = "; ".join(attempt.made.hints)
        print(attempt.told + (f" Mind: it seems to use {hints}." if hints else ""))

    @staticmethod
    def _why(attempt: Attempt) -> str:
        """Why a cell ran, in some words."""
        if attempt.before is None or attempt.made is None:
            return "no such cell was kept"
        changes = attempt.made.key.changes(key_from(attempt.before.about))
        if not changes:
            return "--cache=refresh" if attempt.fresh else "what was kept could not be read"
        more = f", and {len(changes) - 3} more changes" if len(changes) > 3 else ""
        return ", ".join(changes[:3]) + more

    def _keep(
        self,
        attempt: Attempt,
        sent: Submitted,
        summary: Summary,
        seconds: float,
        recording: Recording,
    ) -> int:
        made = attempt.made
        assert made is not None
        if recording.overflows:
            raise NotKeptError("it shows more than 64 MB")
        if (changed := sources_of(made.modules, made.steps)[0]) != made.sources:
            files = sorted(name for name in changed if changed[name] != made.sources.get(name))
            raise NotKeptError(f"{', '.join(files)} changed while it ran")
        names = sent.ready.cell.assigns
        refs = {
            name: ref
            for name, ref in zip(names, sent.columns[0], strict=False)
            if name in summary.types or name == LAST
        }
        asked = [*refs.values(), *([sent.changes] if sent.changes is not None else [])]
        most = self._notebook.settings.cache_bytes // _SHARE
        total = sum(engine().tasks.describe(ref).size or 0 for ref in asked)
        if total > most:
            raise NotKeptError(
                f"{as_bytes(total)} are more than a quarter of cache_bytes (%nbray config)"
            )
        # What is pickled from memory that may be written comes back so.
        home, memory = self._notebook.namespace, engine().memory()
        values = {name: make_own(engine().api.get(ref), memory, home) for name, ref in refs.items()}
        for name, value in values.items():
            if isinstance(value, Unpicklable):
                raise NotKeptError(f"{name} is a {value.type_name} that stayed in its worker")
        values = {name: value for name, value in values.items() if not isinstance(value, Unset)}
        brought = engine().api.get(sent.changes) if summary.brought else {}
        together = dict(make_own(brought, memory, home))
        result = Result(summary, recording.shown(), values, together)
        parts = as_parts(result, home, attempt.inputs)
        size = sum(memoryview(part).nbytes for part in parts)
        if size > most:
            raise NotKeptError(
                f"{as_bytes(size)} are more than a quarter of cache_bytes (%nbray config)"
            )
        about = {
            "label": attempt.label, "cell": attempt.cell_id, "kept": time.time(),
            "seconds": seconds, "line": first_line(attempt.source),
            "imports": sent.ready.text.names.imports,
            "names": [name for name in (*values, *together) if name != LAST],
            "parts_of_key": [[p.kind, p.name, p.digest, p.says] for p in made.key.parts],
        }  # fmt: skip
        return self.store().write(made.key.digest, about, parts)


def key_from(about: Mapping[str, Any]) -> Key:
    """The key of what was kept, out of its description."""
    return Key(tuple(Part(*part) for part in about["parts_of_key"]))


def _most_like(store: Store, key: Key, attempt: Attempt) -> Kept | None:
    """Of what was kept last, the same cell as it was, or the one that has most in common."""
    found = [kept for name in store.names()[:_NEAR] if (kept := store.about(name)) is not None]
    code = next(part.digest for part in key.parts if part.kind == "code")

    def near(kept: Kept) -> tuple[bool, bool, float, float]:
        other = key_from(kept.about)
        same = bool(attempt.cell_id) and kept.about["cell"] == attempt.cell_id
        alike = any(part.kind == "code" and part.digest == code for part in other.parts)
        return same, alike, key.likeness(other), kept.about["kept"]

    best = max(found, key=near, default=None)
    return best if best is not None and any(near(best)[:2]) else None


def _stands_for(value: Any) -> tuple[str, Any] | None:
    """What counts of a handle of the cluster.

    Raises:
        ValueError: nothing that would be the same tomorrow.
    """
    api = engine().api
    if isinstance(value, api.ObjectRef):
        return f"ref {cluster_name()} {value.hex()}", None
    if isinstance(value, api.ActorHandle):
        raise ValueError("what an actor answers may change from call to call")
    if isinstance(value, api.ObjectRefGenerator):
        raise ValueError("a stream can be read once")
    if isinstance(value, engine().placement_group):
        raise ValueError("it belongs to the cluster")
    if isinstance(value, api.ActorClass):
        return "actor class", (getattr(value, "_cls", None), getattr(value, "_options", None))
    return None


def _ago(then: float) -> str:
    seconds = max(0.0, time.time() - then)
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return f"{seconds:.0f} s ago"


__all__ = ["FOLDER", "Attempt", "CellCache", "key_from"]
