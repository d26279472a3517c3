"""The page on Ray: its rows name tests that are there, and all that is refused stands on it."""

from __future__ import annotations

import re

from support.places import ROOT

from nbray.ray_engine.refusals import REFUSED

PAGE = (ROOT / "docs" / "ray-engine.md").read_text()


def test_each_row_names_a_test_and_each_test_has_a_row() -> None:
    there, far = _tests_of("test_ray_engine.py"), _tests_of("test_ray_client.py")
    told = set(re.findall(r"`(test_\w+)`", PAGE))
    assert there <= told <= there | far, (sorted(told - there - far), sorted(there - told))


def _tests_of(file: str) -> set[str]:
    text = (ROOT / "tests" / "jupyter_ext" / file).read_text()
    return set(re.findall(r"^def (test_\w+)", text, flags=re.MULTILINE))


def test_all_that_is_refused_stands_on_the_page() -> None:
    refused = PAGE.partition("## What is refused")[2]
    for what in REFUSED:
        command, _, option = what.partition(" --")
        named = option and f"--{option}" in refused and command in refused
        assert named or what in refused, what
