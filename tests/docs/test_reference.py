"""Every public name is told of: what it takes, gives and raises, and an example of it."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from public import PAGES, methods_of, names_of, raises, sections

import nbray


def parameters(function: Any) -> list[str]:
    """The parameters that a docstring has to tell of: those without "_" before their name."""
    found = list(inspect.signature(function).parameters.values())
    return [one.name for one in found if one.name not in ("self", "cls") and one.name[0] != "_"]


def missing(function: Any, doc: str, where: str) -> list[str]:
    """What the docstring of a function or method does not tell."""
    known = sections(doc)
    found = [] if known[""].strip() else [f"{where}: no first sentence"]
    told = known.get("Args", "")
    names = parameters(function)
    found += [f"{where}: Args without {name}" for name in names if f"{name}:" not in told]
    gives = inspect.signature(function).return_annotation
    given = gives not in (None, "None", inspect.Signature.empty)
    if names and given and not {"Returns", "Yields"} & known.keys():
        found.append(f"{where}: no Returns")
    if raises(function) and "Raises" not in known:
        found.append(f"{where}: no Raises")
    return found


@pytest.mark.parametrize("module", PAGES)
def test_every_name_says_what_it_takes_gives_and_raises_and_has_an_example(module: str) -> None:
    found = []
    names = names_of(module)
    assert names, f"{module} offers nothing"
    for one in names:
        if not callable(one.value):
            continue  # a constant, whose value is shown
        if not one.example:
            found.append(f"{one}: no example")
        if inspect.isclass(one.value):
            if not sections(one.doc)[""].strip():
                found.append(f"{one}: no first sentence")
            if not issubclass(one.value, BaseException):
                for name, method in methods_of(one.value):
                    found += missing(method, inspect.getdoc(method) or "", f"{one}.{name}")
        else:
            found += missing(one.value, one.doc, str(one))
    assert not found, "\n".join(found)


def test_the_pages_have_all_that_the_top_of_nbray_offers() -> None:
    told = {one.name for one in names_of("nbray")}
    assert told == set(nbray.__all__) - {"exceptions"}
