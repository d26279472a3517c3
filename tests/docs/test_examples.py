"""The examples of the reference and of the guides run, on one cluster for all.

A block of ``py`` instead of ``python`` needs what a test has not, as packages of the network.
"""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from public import DOCS, PAGES, fences, public_names, told_by

import nbray

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
ROOT = DOCS.parent
GUIDES = {
    str(page.relative_to(ROOT)): blocks
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if page.parent.name != "examples"
    and (blocks := [code for language, code in fences(page.read_text()) if language == "python"])
}
PROGRAMS = [
    pytest.param(code, id=str(one))
    for module in PAGES
    for one in told_by(module)
    for language, code in fences(one.example)
    if language == "python"
]


def as_main() -> dict[str, Any]:
    return {"__name__": "__main__", "nbray": nbray}


@pytest.mark.parametrize("module", PAGES)
def test_examples_of_the_reference_give_what_they_show(module: str, module_cluster: Path) -> None:
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    for one in told_by(module):
        if ">>>" in one.example:
            example = doctest.DocTestParser().get_doctest(one.example, as_main(), str(one), None, 0)
            runner.run(example, out=told.append)
    assert not told, "".join(told)


def run_blocks(code: str, namespace: dict[str, Any]) -> None:
    """Run a block; an expression gives what the literal in the comment behind it says."""
    lines = code.splitlines()
    for statement in ast.parse(code).body:
        source = ast.get_source_segment(code, statement) or ""
        comment = lines[statement.end_lineno - 1].partition("  # ")[2]
        if not isinstance(statement, ast.Expr):
            exec(compile(ast.Module([statement], []), "<guide>", "exec"), namespace)
            continue
        value = eval(compile(ast.Expression(statement.value), "<guide>", "eval"), namespace)
        try:
            expected = ast.literal_eval(comment)
        except (SyntaxError, ValueError):  # words
            continue
        assert value == expected, source


@pytest.mark.parametrize("page", GUIDES)
def test_code_of_the_guides_runs_and_gives_what_its_comments_say(
    page: str, module_cluster: Path
) -> None:
    namespace = as_main()
    for code in GUIDES[page]:
        run_blocks(code.replace("nbray.init()", "nbray.init(ignore_reinit_error=True)"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("code", PROGRAMS)
def test_examples_that_have_a_cluster_of_their_own_run(
    code: str, session_root: Path, tmp_path: Path
) -> None:
    program = tmp_path / "example.py"
    program.write_text(code)
    ran = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_kind_of_example_was_found() -> None:
    assert len(list(public_names())) > 200
    assert {"README.md", "docs/index.md", "docs/guide/tasks.md"} <= set(GUIDES)
    assert len(PROGRAMS) >= 5
