"""Which names a cell reads and which it assigns, decided from its text alone.

The cell's own statements are followed in order, so that a name which is certainly bound
before it is read is not a read. Branches and loops count as "perhaps": what they bind is
not certain afterwards. A function's body runs later: the globals that it reads are
*deferred* until the function's name is first used in the cell. Python's own `symtable`
decides what is global inside functions and classes. Names that only appear in strings
(``eval``, ``globals()["x"]``) and names bound by ``from x import *`` are not seen.
Annotations that are strings are read like others: dataclasses, `typing` and their kin do so.
Builtins count as names like any other: whoever asks keeps those that its namespace has.
"""

from __future__ import annotations

import ast
import copy
import dis
import functools
import symtable
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType, MethodType
from typing import Any

from nbray.pickling.closures import bound_cells


@dataclass(frozen=True)
class CellNames:
    """The names of one cell.

    Attributes:
        reads: global names that the cell may need while it runs.
        deferred: global names read by functions that the cell defines but does not use.
        deletes: names that the cell deletes without having bound them.
        assigns: names that exist at top level when the cell ends, in order of appearance.
        certain: those of them that are bound whichever way the cell goes.
        imports: those that only import statements bind, with what they name.
        mutates: names that the cell did not bind whose items or attributes it sets or deletes.
    """

    reads: frozenset[str]
    deferred: frozenset[str]
    deletes: frozenset[str]
    assigns: tuple[str, ...]
    certain: frozenset[str]
    imports: dict[str, str]
    mutates: frozenset[str] = frozenset()

    @property
    def needs(self) -> frozenset[str]:
        """Every name that must be there for the cell to run somewhere else."""
        return self.reads | self.deferred | self.deletes


def analyse(cell: str | ast.Module) -> CellNames:
    """The names of a cell, given as Python text or as its tree.

    Raises:
        SyntaxError: the text is not Python.
    """
    flow = _Flow()
    tree = ast.parse(cell) if isinstance(cell, str) else copy.deepcopy(cell)
    for statement in _Annotations().visit(tree).body:
        flow.visit(statement)
    deferred = {name for names in flow.functions.values() for name in names}
    return CellNames(
        reads=frozenset(flow.reads),
        deferred=frozenset(deferred - flow.bound - flow.reads),
        deletes=frozenset(flow.deletes),
        assigns=tuple(flow.assigned),
        certain=frozenset(flow.bound & flow.assigned.keys()),
        imports={name: path for name, path in flow.imports.items() if name in flow.assigned},
        mutates=frozenset(flow.mutates),
    )


def names_reached(names: Iterable[str], namespace: Mapping[str, Any]) -> set[str]:
    """``names`` and the globals of ``namespace`` that functions and classes among them read.

    The search goes on through the functions it meets; nothing is called or fetched.
    """
    seen: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in seen or name not in namespace:
            continue
        seen.add(name)
        for code in _codes_of(namespace[name], namespace):
            waiting.extend(globals_of(code))
        waiting.extend(_names_in_annotations(namespace[name]))
    return seen


def _names_in_annotations(value: Any) -> Iterator[str]:
    """The names in the string annotations of a function or class of the notebook."""
    if isinstance(value, type | FunctionType) and value.__module__ == "__main__":
        found: Any = vars(value).get("__annotations__") if isinstance(value, type) else None
        found = found if found is not None else getattr(value, "__annotations__", None)
        for text in list(found.values()) if isinstance(found, dict) else []:
            if isinstance(text, str) and (tree := _expression(text)) is not None:
                yield from (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _expression(text: str) -> ast.expr | None:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):  # a text in `typing.Annotated` or `Literal` may be anything
        return None


class _Annotations(ast.NodeTransformer):
    """Puts what annotations say in the place of their strings."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = self._read(node.annotation)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        if node.annotation is not None:
            node.annotation = self._read(node.annotation)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if node.returns is not None:
            node.returns = self._read(node.returns)
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def _read(self, annotation: ast.expr) -> ast.expr:
        return _Strings().visit(annotation)  # type: ignore[no-any-return]


class _Strings(ast.NodeTransformer):
    """Reads strings as expressions, as far as they are some."""

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        read = _expression(node.value) if isinstance(node.value, str) else None
        return node if read is None else ast.copy_location(read, node)


def _codes_of(value: Any, namespace: Mapping[str, Any]) -> Iterator[CodeType]:
    """The code that using ``value`` may run, as far as it was written in the notebook."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, FunctionType):
            if item.__globals__ is namespace:
                yield item.__code__
            waiting.extend(value for _name, value in bound_cells(item))
            waiting.append(item.__dict__.get("__wrapped__"))
        elif isinstance(item, MethodType):
            waiting.extend((item.__func__, item.__self__))
        elif isinstance(item, functools.partial):
            waiting.extend((item.func, *item.args, *item.keywords.values()))
        elif isinstance(item, staticmethod | classmethod):
            waiting.append(item.__func__)
        elif isinstance(item, property):
            waiting.extend((item.fget, item.fset, item.fdel))
        elif isinstance(item, type):
            if item.__module__ == "__main__":
                waiting.extend(vars(item).values())
                waiting.extend(item.__bases__)
        elif type(item).__module__ == "__main__":
            waiting.append(type(item))


@functools.lru_cache(maxsize=4096)
def globals_of(code: CodeType) -> frozenset[str]:
    names = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= globals_of(constant)
    return frozenset(names)


class _Flow(ast.NodeVisitor):
    """Walks the top level in the order of execution and keeps what is bound so far."""

    def __init__(self) -> None:
        self.reads: set[str] = set()
        self.deletes: set[str] = set()
        self.mutates: set[str] = set()
        self.bound: set[str] = set()
        self.assigned: dict[str, None] = {}
        self.functions: dict[str, frozenset[str]] = {}
        self.imports: dict[str, str] = {}
        self._shadows: list[set[str]] = []

    def load(self, name: str) -> None:
        """``name`` is read here; using a function also reads what its body reads."""
        if any(name in shadow for shadow in self._shadows):
            return
        if name not in self.bound:
            self.reads.add(name)
        for inner in self.functions.pop(name, ()):
            self.load(inner)

    def store(self, name: str) -> None:
        """``name`` is bound here."""
        self.bound.add(name)
        self.assigned[name] = None
        self.functions.pop(name, None)
        self.imports.pop(name, None)

    def branches(self, *bodies: Sequence[ast.AST]) -> None:
        """Exactly one of ``bodies`` runs (an empty one: perhaps nothing does)."""
        before = (set(self.bound), dict(self.assigned), dict(self.functions))
        bound: set[str] | None = None
        assigned: dict[str, None] = {}
        functions: dict[str, frozenset[str]] = {}
        for body in bodies:
            self.bound, self.assigned, self.functions = (
                set(before[0]), dict(before[1]), dict(before[2]),
            )  # fmt: skip
            for node in body:
                self.visit(node)
            bound = self.bound if bound is None else bound & self.bound
            assigned.update(self.assigned)
            for name, names in self.functions.items():
                functions[name] = functions.get(name, frozenset()) | names
        self.bound, self.assigned, self.functions = bound or set(), assigned, functions

    # --- names ---------------------------------------------------------------------------

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.load(node.id)
        elif isinstance(node.ctx, ast.Store):
            if not any(node.id in shadow for shadow in self._shadows):
                self.store(node.id)
        else:
            if node.id not in self.bound:
                self.deletes.add(node.id)
            self.bound.discard(node.id)
            self.assigned.pop(node.id, None)
            self.functions.pop(node.id, None)

    def visit_Attribute(self, node: ast.Attribute | ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):
            root: ast.expr = node
            while isinstance(root, ast.Attribute | ast.Subscript):
                root = root.value
            if isinstance(root, ast.Name) and not (
                root.id in self.bound or any(root.id in shadow for shadow in self._shadows)
            ):
                self.mutates.add(root.id)
        self.generic_visit(node)

    visit_Subscript = visit_Attribute

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value is not None:
            self.visit(node.value)
            self.visit(node.target)
        elif not isinstance(node.target, ast.Name):
            self.visit(node.target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        if isinstance(node.target, ast.Name):
            self.load(node.target.id)
        self.visit(node.value)
        self.visit(node.target)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self.store(node.target.id)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            self.store(name)
            self.imports[name] = alias.name if alias.asname else name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if alias.name != "*" and node.module != "__future__":
                self.store(alias.asname or alias.name)
                self.imports[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    # --- statements that may or may not run --------------------------------------------

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        self.branches(node.body, node.orelse)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self.branches([node.body], [node.orelse])

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self.branches(node.values[1:], [])

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.branches([node.target, *node.body, *node.orelse], node.orelse)

    visit_AsyncFor = visit_For

    def visit_While(self, node: ast.While) -> None:
        self.visit(node.test)
        self.branches([*node.body, *node.orelse], node.orelse)

    def visit_Try(self, node: ast.Try | ast.TryStar) -> None:
        self.branches([*node.body, *node.orelse], *([handler] for handler in node.handlers))
        for statement in node.finalbody:
            self.visit(statement)

    visit_TryStar = visit_Try

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self.visit(node.type)
        if node.name is not None:
            self.store(node.name)
        for statement in node.body:
            self.visit(statement)
        if node.name is not None:
            self.bound.discard(node.name)
            self.assigned.pop(node.name, None)

    def visit_Match(self, node: ast.Match) -> None:
        self.visit(node.subject)
        self.branches(*([case] for case in node.cases), [])

    def visit_MatchAs(self, node: ast.MatchAs) -> None:
        self.generic_visit(node)
        if node.name is not None:
            self.store(node.name)

    def visit_MatchStar(self, node: ast.MatchStar) -> None:
        if node.name is not None:
            self.store(node.name)

    def visit_MatchMapping(self, node: ast.MatchMapping) -> None:
        self.generic_visit(node)
        if node.rest is not None:
            self.store(node.rest)

    # --- scopes of their own -----------------------------------------------------------

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = node.args
        for part in (*node.decorator_list, *arguments.defaults, *arguments.kw_defaults):
            if part is not None:
                self.visit(part)
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in (*every, arguments.vararg, arguments.kwarg):
            if argument is not None and argument.annotation is not None:
                self.visit(argument.annotation)
        if node.returns is not None:
            self.visit(node.returns)
        reads, stores = _inner_globals(node)
        self.store(node.name)
        for name in stores:
            self.assigned.setdefault(name)
        self.functions[node.name] = reads
        if node.decorator_list:
            self.load(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        for name in _inner_globals(node)[0]:
            self.load(name)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(part)
        reads, stores = _inner_globals(node)
        for name in reads - {node.name}:
            self.load(name)
        self.store(node.name)
        for name in stores:
            self.assigned.setdefault(name)

    def _comprehension(self, generators: list[ast.comprehension], *results: ast.expr) -> None:
        self.visit(generators[0].iter)
        shadow: set[str] = set()
        self._shadows.append(shadow)
        for number, generator in enumerate(generators):
            if number:
                self.visit(generator.iter)
            shadow.update(
                name.id for name in ast.walk(generator.target)
                if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            )  # fmt: skip
            self.visit(generator.target)
            for condition in generator.ifs:
                self.visit(condition)
        self.branches(results, [])
        self._shadows.pop()

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> None:
        self._comprehension(node.generators, node.elt)

    visit_SetComp = visit_ListComp
    visit_GeneratorExp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node.generators, node.key, node.value)


def _inner_globals(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef,
) -> tuple[frozenset[str], frozenset[str]]:
    """The globals that the scopes inside ``node`` read, and those that they assign."""
    reads: set[str] = set()
    stores: set[str] = set()
    scopes = _ComprehensionScopes().visit(ast.parse(ast.unparse(node)))
    waiting = symtable.symtable(ast.unparse(scopes), "<cell>", "exec").get_children()
    while waiting:
        table = waiting.pop()
        waiting.extend(table.get_children())
        in_class = table.get_type() == "class"
        for symbol in table.get_symbols():
            if symbol.is_global():
                reads.add(symbol.get_name())  # also when assigned: it may be ``n += 1``
                if symbol.is_declared_global() and symbol.is_assigned():
                    stores.add(symbol.get_name())
            elif in_class and symbol.is_assigned() and symbol.is_referenced():
                reads.add(symbol.get_name())  # ``x = x`` in a class body reads the global
    return frozenset(reads), frozenset(stores)


class _ComprehensionScopes(ast.NodeTransformer):
    """Makes comprehensions generator expressions, whose names are found by the same rules.

    From Python 3.12 on (PEP 709) `symtable` may show a comprehension's names in the scope
    around it, where a class body's names hide the globals that are really read.
    """

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(node.elt, node.generators)

    visit_SetComp = visit_ListComp

    def visit_DictComp(self, node: ast.DictComp) -> ast.GeneratorExp:
        self.generic_visit(node)
        return ast.GeneratorExp(ast.Tuple([node.key, node.value], ast.Load()), node.generators)
