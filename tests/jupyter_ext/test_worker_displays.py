"""A last value is shown as far as a page can show it."""

from __future__ import annotations

from nbray.jupyter_ext.worker.displays import bundle_of


class Rich:
    """Has a small picture and a huge one."""

    def __repr__(self) -> str:
        return "rich"

    def _repr_html_(self) -> str:
        return "<b>" * (12 << 20)

    def _repr_markdown_(self) -> str:
        return "**rich**"


def test_a_huge_repr_is_cut_and_says_how_much_is_missing() -> None:
    shown = bundle_of("x" * 10_000_000)["text/plain"]
    assert shown.startswith("'xxx") and len(shown) < 210_000
    assert shown.endswith("x ... 9,800,002 more characters")


def test_a_huge_picture_is_left_out_by_name_and_the_others_stay() -> None:
    shown = bundle_of(Rich())
    assert shown == {
        "text/plain": "rich\n(text/html of 38 MB: too large to be shown)",
        "text/markdown": "**rich**",
    }


def test_what_is_not_huge_is_shown_as_it_is() -> None:
    assert bundle_of([1, 2]) == {"text/plain": "[1, 2]"}
    assert bundle_of(Rich) == {"text/plain": repr(Rich)}
