"""The table of options, and that those who have an option by their own hand have it as declared."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click
import pytest
from click.testing import CliRunner

import nbray
from nbray.cli.start import start, start_node
from nbray.options.option import AMOUNTS, SIZE, Option, Scope, size
from nbray.options.showing import as_markdown
from nbray.options.table import OPTIONS, options_of
from nbray.util.scheduling_strategies import In, NodeLabelSchedulingStrategy


def test_no_scope_has_two_options_of_one_name() -> None:
    for scope in Scope:
        names = [option.name for option in OPTIONS if scope in option.scope]
        assert len(names) == len(set(names)) == len(options_of(scope)) > 0


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: f"{option.name}-{option.scope}")
def test_a_default_is_a_value_of_the_options_type(option: Option) -> None:
    assert option.help and option.help.strip() == option.help
    assert option.default is None or isinstance(option.default, option.types)
    if isinstance(option.default, int) and option.least is not None:
        assert option.default >= option.least


def test_init_has_the_options_of_the_table_with_its_defaults() -> None:
    parameters = inspect.signature(nbray.init).parameters
    own = {name: p.default for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
    declared = options_of(Scope.INIT)
    assert own == {
        name: option.default
        for name, option in declared.items()
        if option.has_effect and not name.startswith("_")
    }
    arguments = inspect.cleandoc(nbray.init.__doc__ or "").split("Args:")[1].split("Returns:")[0]
    told = set(re.findall(r"^    (\w+): ", arguments, re.M))
    assert told - {"others"} == set(own)


def test_the_command_has_the_options_of_the_table() -> None:
    declared = options_of(Scope.START)
    known = {p.opts[0]: p for p in start.params if isinstance(p, click.Option)}
    assert set(known) == {option.flag for option in declared.values()}
    for option in declared.values():
        assert known[option.flag].hidden is not option.has_effect
        assert known[option.flag].help == option.help
    called = set(inspect.signature(start_node).parameters)
    assert called - {"record", "for_programs", "of_node"} <= set(declared)


@pytest.mark.parametrize(
    ("function", "scope"),
    [
        (nbray.method, Scope.METHOD),
        (nbray.RemoteFunction.options, Scope.TASK),
        (nbray.ActorClass.options, Scope.ACTOR),
        (nbray.actor.ActorMethod.options, Scope.CALL),
    ],
)
def test_signatures_show_every_option_and_docstrings_its_help(function: Any, scope: Scope) -> None:
    parameters = inspect.signature(function).parameters
    arguments = (inspect.getdoc(function) or "").split("Args:")[1].split("Returns:")[0]
    for name, option in options_of(scope).items():
        assert parameters[name].default == option.default
        assert f"\n    {name}: {option.help}\n" in arguments


def test_remote_shows_the_options_of_functions_and_of_classes() -> None:
    assert {"max_retries", "max_restarts"} <= set(inspect.signature(nbray.remote).parameters)


def test_a_call_refuses_an_option_that_it_has_not() -> None:
    handle = nbray.ActorHandle(b"x", "Counter", {}, 0, -1, None)
    with pytest.raises(TypeError, match=r"no option 'num_cpu'.*'num_returns'"):
        handle.__ray_ready__.options(num_cpu=1)


@pytest.mark.parametrize(
    ("text", "value"),
    [("500", 500), ("100MB", 100_000_000), ("2GiB", 2 << 30), (" 1.5k ", 1500), ("1 TB", 10**12)],
)
def test_sizes_have_units(text: str, value: int) -> None:
    assert size(text) == value


@pytest.mark.parametrize(
    ("scope", "name", "text", "value"),
    [
        (Scope.START, "num_cpus", "0.5", 0.5),
        (Scope.START, "port", "0", 0),
        (Scope.START, "object_store_memory", "2GB", 2_000_000_000),
        (Scope.START, "resources", '{"disk": 2}', {"disk": 2}),
        (Scope.START, "labels", "zone=b", {"zone": "b"}),
        (Scope.INIT, "include_dashboard", "0", False),
        (Scope.TASK, "max_retries", "-1", -1),
        (Scope.TASK, "label_selector", '{"zone": "in(a,b)"}', {"zone": "in(a,b)"}),
        (Scope.TASK, "memory", "1GiB", 1 << 30),
    ],
)
def test_a_word_of_a_line_becomes_a_value(scope: Scope, name: str, text: str, value: Any) -> None:
    assert options_of(scope)[name].from_text(text) == value


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("num_cpus", "-1", "0 or more"),
        ("num_cpus", "nan", "0 or more"),
        ("num_cpus", "many", "not a number"),
        ("port", "70000", "range from 0 to 65535"),
        ("port", "1.5", "whole number"),
        ("object_store_memory", "0", "range from 1"),
        ("object_store_memory", "2 apples", "500000, 100MB or 2GiB"),
        ("object_store_memory", "1.2.3GB", "not a size"),
        ("resources", "{x", "not JSON"),
        ("resources", "[]", "not a JSON object"),
        ("resources", '{"disk": true}', "of numbers"),
        ("resources", '{"CPU": 1}', "options of their own"),
        ("include_dashboard", "perhaps", "neither true nor false"),
        ("session", "/nowhere", "no folder"),
        ("labels_file", "/nowhere", "no file"),
    ],
)
def test_a_word_that_cannot_be_says_why(name: str, text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        options_of(Scope.START)[name].from_text(text)


def test_a_value_that_only_python_has_cannot_be_a_word() -> None:
    with pytest.raises(ValueError, match="placement_group cannot be written in a line"):
        options_of(Scope.TASK)["placement_group"].from_text("x")
    assert options_of(Scope.TASK)["resources"].word is AMOUNTS
    assert options_of(Scope.TASK)["memory"].word is SIZE


@pytest.mark.parametrize("scope", list(Scope))
def test_a_document_names_every_option(scope: Scope) -> None:
    table = as_markdown(scope)
    for name, option in options_of(scope).items():
        assert f"`{option.flag if scope is Scope.START else name}`" in table
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    options = options_of(scope).values()
    assert len(rows) == sum(bool(option.has_effect or option.refusal) for option in options)


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("--temp-dir=/scratch", "--temp-dir is an option of Ray's that nbray refuses: set NBRAY_T"),
        ("--metrics-export-port=8080", "/metrics"),
        ("--dashboard-agent-listen-port=52365", "nodes have no agents"),
        ("--runtime-env-agent-port=1", "nodes have no agents"),
        ("--include-log-monitor=False", "log_to_driver=False"),
        ("--no-redirect-output", "nbray logs"),
        ("--worker-port-list=1,2", "--min-worker-port and --max-worker-port"),
        ("--plasma-directory=/dev/shm", "memory without a file"),
        ("--enable-resource-isolation", "by cgroups"),
        ("--tracing-startup-hook=a:b", "nbray timeline"),
    ],
)
def test_what_would_not_come_true_is_refused_by_name_with_the_reason(word: str, why: str) -> None:
    said = CliRunner().invoke(start, ["--head", word])
    assert said.exit_code == 2 and why in " ".join(said.output.split()), said.output
    assert "Traceback" not in said.output


def test_what_is_so_anyway_is_taken() -> None:
    words = ["--include-log-monitor=True", "--dashboard-agent-listen-port=0", "--temp-dir="]
    words += ["--disable-usage-stats", "--no-monitor", "-v", "--log-style=record"]
    said = CliRunner().invoke(start, [*words, "--address=h:1", "--head"])
    assert "Give either --head or --address" in said.output, "it came as far as that"


def test_a_strategy_of_labels_is_a_value_of_the_option() -> None:
    strategy = NodeLabelSchedulingStrategy({"zone": In("b")})
    assert isinstance(strategy, options_of(Scope.TASK)["scheduling_strategy"].types)
