"""The examples of the reference and of the guides run, on one cluster for all."""

from __future__ import annotations

import doctest
from pathlib import Path
from typing import Any

import pytest
from public import DOCS, PAGES, told_by

import nbray

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
GUIDES = sorted(str(page.relative_to(DOCS)) for page in DOCS.glob("*/*.md"))


def fresh() -> dict[str, Any]:
    return {"__name__": "__main__", "nbray": nbray}


def run_doctest(text: str, name: str) -> list[str]:
    """Run an interactive example; what went wrong."""
    test = doctest.DocTestParser().get_doctest(text, fresh(), name, None, 0)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=FLAGS, verbose=False).run(test, out=told.append)
    return told


@pytest.mark.parametrize("module", PAGES)
def test_examples_of_the_reference_give_what_they_show(module: str, module_cluster: Path) -> None:
    told = []
    for one in told_by(module):
        if ">>>" in one.example:
            told += run_doctest(one.example, str(one))
    assert not told, "".join(told)
