"""The dashboard's tables: filtered, sorted, searched, paged, escaped; what is cut is said."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nbray
from nbray.dashboard.pages.actors import ACTORS
from nbray.dashboard.pages.jobs import JOBS
from nbray.dashboard.pages.nodes import NODES
from nbray.dashboard.parts import logs
from nbray.dashboard.parts.html import address, escape, is_short_for, numbered, ref, tag
from nbray.dashboard.parts.page import NotFoundError, find
from nbray.dashboard.parts.table import PAGE_ROWS
from nbray.state.rows import ActorState, DriverInfo, JobState, NodeState
from nbray.testing import wait_until
from nbray.util.state import list_actors

HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='x", "&lt;b&gt;",
    "javascript:alert(1)", "\x1b[31mred\x1b[0m", "\u202egnp.exe", "\ud800", "a\nb\x00c", "{{7*7}}",
    "</title><script>", "%s{0}", "🙂" * 50, "x" * 5000, "../../etc/passwd", "",
]  # fmt: skip


def actor(number: int, state: str, name: str = "") -> ActorState:
    return ActorState(
        f"{number:032x}", "Row", state, "01000000", name or f"{state}-{number}", None, number, ""
    )  # fmt: skip


def job(number: int, status: str) -> JobState:
    driver = DriverInfo(f"{number:08x}", "127.0.0.1", str(number))
    return JobState("DRIVER", f"{number:08x}", None, driver, status, f"{status}-{number}")


def node(number: int, state: str) -> NodeState:
    return NodeState(f"{number:056x}", f"{state}-{number}", False, state, "gone", "host", {}, {})


ROWS: dict[str, tuple[Any, Any, str, str]] = {
    "actors": (ACTORS, actor, "ALIVE", "DEAD"),
    "jobs": (JOBS, job, "RUNNING", "SUCCEEDED"),
    "nodes": (NODES, node, "ALIVE", "DEAD"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_page_of_rows_says_how_many_there_are_and_links_to_the_others(name: str) -> None:
    table, make, living, dead = ROWS[name]
    rows = [make(number, living) for number in range(3)]
    rows += [make(number, dead) for number in range(3, 213)]
    shown = table.body(name, {}, rows)
    numbers = re.findall(rf"({living}|{dead})-\d+", shown)
    assert numbers[:3] == [living] * 3 and numbers.count(dead) == PAGE_ROWS - 3
    assert f"1 to {PAGE_ROWS} of 213 are shown" in shown and "page=2" in shown
    last = table.body(name, {"page": "5"}, rows)
    assert f"{dead}-212" in last and "201 to 213 of 213" in last
    few = table.body(name, {}, rows[:3])
    assert "are shown" not in few
    for odd in ("-1", "x", "9" * 30, "²", "99"):
        assert "of 213 are shown" in table.body(name, {"page": odd}, rows)


def test_rows_are_filtered_searched_and_sorted_by_what_the_address_says() -> None:
    rows = [actor(number, "ALIVE") for number in range(9)]
    rows += [actor(number, "DEAD") for number in range(9, 12)]

    def shown(**query: str) -> list[str]:
        return re.findall(r"(?:ALIVE|DEAD)-\d+", ACTORS.body("actors", query, rows))

    assert len(shown(state="DEAD")) == 3
    assert shown(q="alive-4") == ["ALIVE-4"] and shown(q="row 0007") == ["ALIVE-7"]
    assert shown(sort="-pid")[0] == "DEAD-11" and shown(sort="pid")[0] == "ALIVE-0"
    assert shown(sort="nonsense") == shown()
    assert len(shown(job="0100")) == 12 and shown(job="02") == []
    body = ACTORS.body("actors", {"state": "DEAD", "q": "11"}, rows)
    assert "1 of 12 actors match." in body and "state=ALIVE" in body, "chips offer the others"
    assert "None of them matches." in ACTORS.body("actors", {"q": "no such"}, rows)
    assert "None." in ACTORS.body("actors", {}, [])


def test_what_is_not_known_stands_behind_what_is_in_either_order() -> None:
    rows = [actor(1, "ALIVE"), actor(2, "ALIVE")]
    rows[0].pid = None
    for sort in ("pid", "-pid"):
        names = re.findall(r"ALIVE-\d", ACTORS.body("actors", {"sort": sort}, rows))
        assert names == ["ALIVE-2", "ALIVE-1"]


@pytest.mark.parametrize("text", HOSTILE)
def test_names_of_strangers_are_text(text: str) -> None:
    rows = [actor(1, "ALIVE", text), actor(2, "DEAD")]
    rows[1].repr_name = rows[0].class_name = text
    rows[1].death_cause = {"actor_died_error_context": {"error_message": text}}
    body = ACTORS.body("actors", {"q": text[:50], "state": text}, rows)
    body += ACTORS.body("actors", {}, rows) + ACTORS.search("actors", {"q": text})
    assert_is_text(body)
    body.encode()  # halves of surrogate pairs would not


def assert_is_text(body: str) -> None:
    """Only elements that the dashboard makes, and no attribute that runs something."""
    assert not set(re.findall(r"<(\w+)", body)) & {"script", "img", "b", "i", "style", "iframe"}
    for element in re.findall(r"<\w+[^>]*>", body):
        names = re.findall(r'\s([\w-]+)="[^"]*"', element)
        assert not [name for name in names if name.startswith("on")], element
        assert re.fullmatch(r'<\w+(?:\s[\w-]+="[^"]*")*>', element), element
    assert not re.search(r'href="\s*javascript:', body)
    assert "\x1b" not in body and "\u202e" not in body and "\x00" not in body


@given(st.text(), st.text())
def test_any_text_comes_back_as_it_was_shown(text: str, other: str) -> None:
    shown = tag("p", text, title=other)
    assert_is_text(shown)
    found = re.fullmatch(r'<p title="([^"]*)">([^<]*)</p>', shown, re.DOTALL)
    assert found is not None
    assert html.unescape(found[2]) == html.unescape(str(escape(text)))


@given(st.dictionaries(st.sampled_from("abq"), st.text(max_size=20)))
def test_an_address_holds_any_query(query: dict[str, str]) -> None:
    query = {key: value.encode("utf-8", "ignore").decode() for key, value in query.items()}
    said = address("tasks", query)
    assert said.isascii() and " " not in said and '"' not in said


def test_things_are_found_by_id_by_its_beginning_and_by_name() -> None:
    rows = [actor(0xABCD0000 << 96, "ALIVE", "first"), actor(0xABCE0000 << 96, "DEAD", "second")]

    def one(said: str) -> str | None:
        return find(rows, said, "actor", lambda a: a.actor_id, lambda a: (a.name,)).name

    assert one(rows[1].actor_id) == "second" and one("abcd") == "first"
    assert one("ABCE00") == "second" and one("second") == "second"
    for said in ("abc", "", "nothing", "ffff"):
        with pytest.raises(NotFoundError, match="No actor is known"):
            one(said)
    rows[1] = actor(0xABCD1111 << 96, "ALIVE", "third")
    with pytest.raises(NotFoundError, match="beginning of 2 ids"):
        one("abcd")


def test_tasks_of_one_process_are_told_apart_by_their_short_ids() -> None:
    first, second = "ab" * 12 + "01000000" * 2 + "01000000", "ab" * 12 + "02000000" * 2 + "01000000"
    assert numbered(first) != numbered(second)
    assert is_short_for(numbered(first), first) and not is_short_for(numbered(first), second)
    assert is_short_for("abab", first) and numbered(first) in ref("task", first)


def test_log_lines_are_chosen_by_words_and_levels_and_escaped() -> None:
    text = "\n".join([
        "2026 INFO began", "plain", "2026 WARNING <b>careful</b>", "2026 ERROR broke",
        "  at line 1", "\x1b[31mValueError: red\x1b[0m", "10%\r50%\r100%",
    ])  # fmt: skip
    assert [line for _level, line in logs.chosen(text, level="WARNING")] == [
        "2026 WARNING <b>careful</b>", "2026 ERROR broke", "  at line 1", "ValueError: red", "100%",
    ]  # fmt: skip
    (found,) = logs.chosen(text, "careful")
    shown = logs.shown([found], "careful")
    assert "&lt;b&gt;<mark>careful</mark>&lt;/b&gt;" in shown
    many = [("", str(number)) for number in range(2000)]
    assert f"The last {logs.MOST_LINES:,} of 2,000 lines" in logs.shown(many)
    for hostile in HOSTILE:
        assert_is_text(logs.shown(logs.chosen(hostile, hostile), hostile).replace("<mark>", ""))


@nbray.remote(num_cpus=0)
class Short:
    pass


def test_lists_that_are_cut_have_the_living(cluster: Path) -> None:
    ended = [Short.remote() for _ in range(3)]
    nbray.get([one.__ray_ready__.remote() for one in ended], timeout=60)
    for one in ended:
        nbray.kill(one)
    wait_until(lambda: len(list_actors(filters=[("state", "=", "DEAD")])) == 3, "their ends")
    last = Short.options(name="last").remote()
    nbray.get(last.__ray_ready__.remote(), timeout=60)
    assert [row.name for row in list_actors(limit=1)] == ["last"]
