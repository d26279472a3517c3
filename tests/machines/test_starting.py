"""What `nbray up` starts and what an autoscaler starts, on machines of one list."""

from __future__ import annotations

import asyncio
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from nbray.autoscaler import demand
from nbray.autoscaler.instances import Instances, Joined, Life, State
from nbray.autoscaler.model import Ask, Rules, TypeRules, Wanted
from nbray.autoscaler.planner import plan
from nbray.autoscaler.providers import base
from nbray.autoscaler.providers.base import Instance, ProviderError, Stage
from nbray.autoscaler.providers.local import LocalProvider
from nbray.common.session import Session
from nbray.launcher.record import NodeRecord
from nbray.machines import scripts, starting
from nbray.machines.found import question, read
from nbray.machines.scaling import TYPE, instance_of_up, may_be_on
from nbray.wire.scaling_messages import Snapshot


def sh(text: str) -> str:
    done = subprocess.run(["sh", "-c", text], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_head_is_told_what_is_started_for_a_while_and_says_what_its_autoscaler_has(
    tmp_path: Path,
) -> None:
    record, session = tmp_path / "a record", tmp_path / "session"
    word = scripts.remote_path(str(record))
    assert starting.begun(sh(starting.announce(word, {"h1": "up-h1-ab"}))) == set()
    assert starting.starting_in(record, time.time()) == {"h1": "up-h1-ab"}
    assert starting.starting_in(record, time.time() + starting.LEASE_S + 1) == {}
    assert starting.starting_in(record, time.time() - 1000) == {}, "a clock that was set back"
    session.mkdir()
    (record / "session").symlink_to(session)
    assigned = {"nbray-1": starting.Assigned("h2", "t"), "nbray-2": starting.Assigned("h3", "t")}
    (session / starting.POOL).write_bytes(msgspec.json.encode(assigned))
    assert starting.begun(sh(starting.announce(word, {}))) == {"h2", "h3"}
    assert starting.starting_in(record, time.time()) == {}
    (session / starting.POOL).write_text("torn")
    assert starting.begun(sh(starting.announce(word, {"it's": "x"}))) == set()
    assert starting.starting_in(record, time.time()) == {"it's": "x"}
    sh(starting.withdraw(word))
    sh(starting.withdraw(word))
    assert starting.starting_in(record, time.time()) == {}
    for wrong in ("", "later {}", "12", f"{int(time.time()) + 20} [1]"):
        (record / starting.LEASE).write_text(wrong)
        assert starting.starting_in(record, time.time()) == {}


def test_names_of_what_up_starts_are_new_each_time_and_say_where() -> None:
    for host in ("10.77.7.12", "[fe80::1]", "Ein-Rechner.example.org" * 4):
        one, other = instance_of_up(host), instance_of_up(host)
        assert one != other and len(one) <= 40
        assert may_be_on(one, host) and not may_be_on(one, "10.77.7.13")
        assert not may_be_on("nbray-0123456789ab", host)


def test_a_node_is_ended_as_the_instance_that_it_is_and_as_no_other(tmp_path: Path) -> None:
    record = tmp_path / "record"
    session = Session.create()
    NodeRecord(record).keep(session, {"nbray.io/instance-id": "up-h1-ab", "other": "label"})
    word = scripts.remote_path(str(record))
    assert read(sh(question(word)), is_head=False).instance == "up-h1-ab"
    sh(scripts.stop_node(word, forget=False, only="nbray-77"))
    assert (record / "session").is_symlink(), "it is another's"
    sh(scripts.stop_node(word, forget=False, only="up-h1-ab"))
    assert not (record / "session").is_symlink()
    assert read(sh(question(word)), is_head=False).instance == ""
    NodeRecord(record).keep(session)
    sh(scripts.stop_node(word, forget=True, only="nbray-77"))
    assert not record.exists(), "nobody else's either"
    session.remove()


def others(id: str = "up-h1-ab") -> Instance:
    return Instance(id=id, type="t", stage=Stage.STARTING, place="h1", by_others=True)


def test_what_others_start_is_counted_and_neither_ended_nor_failed() -> None:
    known = Instances()
    rules = Rules({"t": TypeRules("t", {"CPU": 10_000}, least=1, most=3)}, 3)
    wants_one = Wanted([Ask({"CPU": 10_000}, 1)])

    def launched() -> int:
        there = demand.here(Snapshot([], [], []), known, rules, {}, 5.0)
        return sum(one.count for one in plan(rules, there, wants_one, 5.0).launch)

    assert launched() == 1
    assert known.look([others()], 1.0, {}, 1.0).terminate == []
    assert [one.id for one in known.by_others()] == ["up-h1-ab"] and launched() == 0
    gone = known.look([], 2.0, {}, 2.0)
    assert not (gone.terminate or gone.failed or known.failures) and launched() == 1
    known.look([others()], 3.0, {}, 3.0)
    known.add(Life("up-h1-ab", "t", "its node was here already"), 4.0)
    known.look([], 4.0, {"up-h1-ab": Joined(b"n")}, 4.0)
    assert known.all()[0].state is State.RUNNING and not known.by_others()


FILE = """
cluster_name: two-starters
provider: {type: local, head_ip: 10.0.0.1, worker_ips: [192.0.2.1]}
auth: {ssh_user: root}
"""


def test_an_autoscaler_leaves_a_machine_that_up_is_about_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import yaml

    monkeypatch.setenv("HOME", str(tmp_path))
    kind = base.NodeType(name=TYPE, resources={"CPU": 1})
    session = tmp_path / "session"
    session.mkdir()
    cluster = base.Cluster(
        name="two-starters", address="10.0.0.1:6379", session=str(session), token_file="none",
        document=yaml.safe_load(FILE), types={TYPE: kind},
    )  # fmt: skip
    record = scripts.remote_path(scripts.record_path("two-starters", "10.0.0.1"))
    sh(starting.announce(record, {"192.0.2.1": "up-h1-ab"}))
    # It had chosen the machine, and was killed before it began.
    assigned = {"nbray-1": starting.Assigned("192.0.2.1", TYPE)}
    (session / starting.POOL).write_bytes(msgspec.json.encode(assigned))

    async def ask() -> None:
        provider = LocalProvider(cluster)
        with pytest.raises(ProviderError, match=r"`nbray up` starts nodes on 192\.0\.2\.1"):
            await provider.create([base.Wanted(id="nbray-1", type=kind)])
        assert [one.id for one in await provider.list()] == ["up-h1-ab"]
        assert (session / starting.POOL).read_bytes() == b"{}"
        await provider.close()

    asyncio.run(ask())
