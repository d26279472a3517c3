"""`sys.stdout` and `sys.stderr` of tasks are as files, and no text of theirs is lost on its way."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.terminal import Terminal

import nbray
from nbray.driver import output
from nbray.testing import wait_until


@pytest.fixture(scope="module")
def cluster(module_cluster: Path) -> Path:
    return module_cluster


@nbray.remote(max_retries=0)
def run(code: str) -> Any:
    found: dict[str, Any] = {"sys": sys, "io": io, "os": os}
    exec(code, found)
    return found.get("r")


def printed(terminal: Terminal, code: str, *expected: str) -> None:
    """Run code in a task; these lines arrive, in this order."""
    nbray.get(run.remote(code + "\nprint('the end')"), timeout=30)

    def lines_of_it() -> list[str]:
        seen = (terminal.out + terminal.err).splitlines()
        return [line.split(") ", 1)[1] for line in seen if line.startswith("(run")]

    wait_until(lambda: {"the end", *expected} <= set(lines_of_it()), "the last line")
    lines = lines_of_it()
    if any(below in code for below in ("raw", "subprocess")):  # which the log alone knows at first
        assert sorted(lines) == sorted([*expected, "the end"])
    else:
        assert lines == [*expected, "the end"]


def test_a_stream_has_what_a_file_has(cluster: Path) -> None:
    for name, number in (("stdout", 1), ("stderr", 2)):
        code = (
            f"s = sys.{name}\n"
            "r = (s.name, s.mode, s.encoding, s.errors, s.line_buffering, s.closed, s.isatty(),"
            " s.fileno(), s.writable(), s.readable(), s.buffer.fileno(), s.buffer.mode,"
            " isinstance(s, io.TextIOWrapper), s.newlines)"
        )
        assert nbray.get(run.remote(code)) == (
            f"<{name}>", "w", "utf-8", "replace", True, False, False,
            number, True, False, number, "wb", True, None,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print(1); sys.stdout.buffer.write('é\\n'.encode()); print(2)", ["1", "é", "2"]),
        ("b = sys.stdout.buffer; b.write(b'\\xc3'); b.write(b'\\xa9\\n\\xff\\n')", ["é", "�"]),
        ("sys.stdout.buffer.write(memoryview(b'view\\n'))", ["view"]),
        ("sys.stdout.buffer.raw.write(b'raw\\n')", ["raw"]),
        ("sys.stdout.writelines(['a\\n', 'b\\n'])", ["a", "b"]),
        ("w = io.TextIOWrapper(sys.stdout.buffer); w.write('wrapped\\n'); del w", ["wrapped"]),
        ("import codecs; codecs.getwriter('utf-8')(sys.stdout.buffer).write('é\\n')", ["é"]),
        ("import click; click.echo(b'bytes'); click.echo('text')", ["bytes", "text"]),
        ("sys.stdout.close(); print('closed', file=sys.stdout)", ["closed"]),
        ("sys.stdout = io.TextIOWrapper(sys.stdout.detach()); print('new')\n"
         "print('old'); sys.stdout.flush(); sys.stdout = sys.__stdout__", ["new", "old"]),
        ("sys.stdout = io.StringIO(); print('lost'); sys.stdout = sys.__stdout__", []),
        ("sys.stdout.reconfigure(line_buffering=False); print('line')", ["line"]),
        ("sys.stdout.reconfigure(encoding='ascii', errors='backslashreplace'); print('é')\n"
         "sys.stdout.reconfigure(encoding='utf-8', errors='replace'); print('é')", ["\\xe9", "é"]),
        ("import subprocess; subprocess.run(['echo', 'to it'], stdout=sys.stdout)", ["to it"]),
    ],
)  # fmt: skip
def test_what_is_written_arrives_in_order(
    cluster: Path, terminal: Terminal, code: str, expected: list[str]
) -> None:
    printed(terminal, code, *expected)


def test_what_a_task_leaves_in_a_stream_of_its_own_arrives_at_its_end(
    cluster: Path, terminal: Terminal
) -> None:
    code = "sys.stdout = io.TextIOWrapper(sys.stdout.buffer, write_through=False); print('kept')"
    printed(terminal, code, "kept")
    nbray.get(run.remote("sys.stdout = sys.__stdout__"))


@pytest.mark.parametrize(
    ("code", "error", "text"),
    [
        ("print('x', file=sys.stdout.buffer)", TypeError, "bytes-like object is required"),
        ("sys.stdout.write(b'x')", TypeError, "must be str, not bytes"),
        ("sys.stdout.buffer.write(3)", TypeError, "bytes-like object is required"),
        ("sys.stdout.reconfigure(errors='strict'); print('\\udce9')", UnicodeEncodeError, "utf-8"),
        ("sys.stdout.read()", io.UnsupportedOperation, "not readable"),
    ],
)
def test_what_a_file_refuses_is_refused(
    cluster: Path, code: str, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        nbray.get(run.remote(code))
    nbray.get(run.remote("sys.stdout.reconfigure(errors='replace')"))


def test_a_stream_that_is_sent_is_the_stream_of_where_it_comes(cluster: Path) -> None:
    assert nbray.get(run.remote("r = sys.stdout")) is sys.stdout


@pytest.mark.parametrize(
    "show",
    [
        lambda target: output._write(target, "é ✓ \udce9\n"),
        lambda target: output.warn("é"),
    ],
)
def test_a_stream_that_cannot_take_a_text_gets_it_with_escapes(
    show: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    target = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stderr", target)
    show(target)
    assert raw.getvalue().startswith(b"\\xe9")
    monkeypatch.setattr(sys, "stderr", None)
    show(None)


def test_a_program_whose_stdout_is_ascii_loses_no_line_of_its_tasks(session_root: Path) -> None:
    program = (
        "import nbray, time\n"
        "nbray.init(num_cpus=1)\n"
        "@nbray.remote\n"
        "def hello(): print('h\\u00e9llo \\u2713')\n"
        "nbray.get(hello.remote())\n"
        "nbray.shutdown()\n"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60
    )
    assert "h\\xe9llo \\u2713" in ended.stdout and "Traceback" not in ended.stderr
