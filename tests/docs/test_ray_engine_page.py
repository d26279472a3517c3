"""The page on Ray: its rows name tests that are there, and all that is refused stands on it."""

from __future__ import annotations

import re

from support.places import ROOT

from nbray.ray_engine.refusals import REFUSED

PAGE = (ROOT / "docs" / "ray-engine.md").read_text()


def test_each_row_names_a_test_and_each_test_has_a_row() -> None:
    tests = (ROOT / "tests" / "jupyter_ext" / "test_ray_engine.py").read_text()
    there = set(re.findall(r"^def (test_\w+)", tests, flags=re.MULTILINE))
    told = set(re.findall(r"`(test_(?!ray_engine)\w+)`", PAGE))
    assert told == there, (sorted(told - there), sorted(there - told))


def test_all_that_is_refused_stands_on_the_page() -> None:
    refused = PAGE.partition("## What is refused")[2]
    for what in REFUSED:
        command, _, option = what.partition(" --")
        named = option and f"--{option}" in refused and command in refused
        assert named or what in refused, what
