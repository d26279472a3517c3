"""Columns of the state API have the shapes of Ray's: programs read what is in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.exceptions import ActorDiedError
from nbray.testing import Gate, wait_until
from nbray.util.state import get_actor, list_actors, list_tasks


@nbray.remote
class Mortal:
    def __init__(self, problem: str = "") -> None:
        if problem:
            raise ValueError(problem)

    def ping(self) -> None: ...

    def crash(self) -> None:
        os._exit(3)


def dead(name: str) -> dict[str, Any]:
    """What the state API says of the death of the actor of this name."""

    def found() -> dict[str, Any] | None:
        rows = list_actors(filters=[("name", "=", name), ("state", "=", "DEAD")], detail=True)
        return rows[0].death_cause if rows else None

    wait_until(lambda: found() is not None, f"{name} is dead")
    cause = found()
    assert cause is not None
    return cause


def kill(actor: Any) -> None:
    nbray.get(actor.ping.remote(), timeout=30)
    nbray.kill(actor)


def crash(actor: Any) -> None:
    with pytest.raises(ActorDiedError):
        nbray.get(actor.crash.remote(), timeout=30)


def drop(actor: Any) -> None:
    nbray.get(actor.ping.remote(), timeout=30)


@pytest.mark.parametrize(
    ("end", "reason"), [(kill, "RAY_KILL"), (crash, "WORKER_DIED"), (drop, "OUT_OF_SCOPE")]
)
def test_how_an_actor_died_is_told_in_the_context_of_its_process(
    module_cluster: Path, end: Callable[[Any], None], reason: str
) -> None:
    actor = Mortal.options(name=f"it met {reason}").remote()
    actor_id = actor._actor_id.hex()
    end(actor)
    del actor
    context = dead(f"it met {reason}")["actor_died_error_context"]
    assert (context["reason"], context["actor_id"]) == (reason, actor_id)
    assert context["class_name"] == "Mortal" and context["error_message"]
    row = get_actor(actor_id)
    assert row is not None and row.death_text == context["error_message"]


def test_an_actor_that_never_was_has_the_context_of_what_failed(module_cluster: Path) -> None:
    broken = Mortal.options(name="broken").remote("no such luck")
    with pytest.raises(ActorDiedError):
        nbray.get(broken.ping.remote(), timeout=30)
    context = dead("broken")["creation_task_failure_context"]
    assert "ValueError: no such luck" in context["formatted_exception_string"]
    assert context["language"] == "PYTHON"
    living = Mortal.options(name="living").remote()
    nbray.get(living.ping.remote(), timeout=30)
    (row,) = list_actors(filters=[("name", "=", "living")], detail=True)
    assert row.death_cause is None and row.death_text == ""


def test_conditions_on_labels_are_told_as_they_were_given(
    module_cluster: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path)
    asked = {"zone": "!in(a,b)", "tier": "!silver", "ray.io/node-id": "!in(x)"}
    if_not = [{"label_selector": {"zone": "!in(a,b)"}}]

    @nbray.remote(label_selector=asked, fallback_strategy=if_not)
    def chosen() -> None:
        gate.wait_here()

    @nbray.remote
    def anywhere() -> None:
        gate.wait_here()

    refs = [chosen.remote(), anywhere.remote()]

    def running() -> dict[str, Any]:
        return {
            row.name.rpartition(".")[-1]: row
            for row in list_tasks(filters=[("state", "=", "RUNNING")], detail=True)
        }

    wait_until(lambda: len(running()) == 2, "both run")
    rows = running()
    gate.open()
    nbray.get(refs, timeout=30)
    assert rows["chosen"].label_selector == {**asked, "ray.io/node-id": "!x"}
    (other,) = rows["chosen"].fallback_strategy["options"]
    assert other["label_selector"]["label_constraints"] == [
        {"label_key": "zone", "operator": "LABEL_OPERATOR_NOT_IN", "label_values": ["a", "b"]}
    ]
    assert rows["anywhere"].label_selector == {}
    assert rows["anywhere"].fallback_strategy == {"options": []}

    actor = Mortal.options(name="labelled", label_selector={"tier": "!silver"}).remote()
    nbray.get(actor.ping.remote(), timeout=30)
    (row,) = list_actors(filters=[("name", "=", "labelled")], detail=True)
    assert row.label_selector == {"tier": "!silver"}
