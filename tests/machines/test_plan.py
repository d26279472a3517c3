"""What `nbray up` decides: from the file, and from what hosts answer, to steps. No machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml
from msgspec.structs import asdict

from nbray.machines.cluster_file import ClusterFile, ClusterFileError, check
from nbray.machines.containers import container_of
from nbray.machines.found import Found, question, read
from nbray.machines.mounts import hash_of
from nbray.machines.plan import Machine, Plan, Restart, Step, Wanted, make_plan
from nbray.machines.provider import provider_of
from nbray.machines.scripts import remote_path

HEAD, WORKER = Machine("h", True), Machine("w")
WANTED = [Wanted(HEAD, "f", "s", "r"), Wanted(WORKER, "f", "s", "r")]
RUNS = Found(files="f", setup="s", start="r", session="/s", runs=True, hosts=("h", "w"))
JOINED = Found(files="f", setup="s", start="r", joined="/s", session="/t", runs=True)
ALL = (Step.FILES, Step.SETUP, Step.START)


def steps(plan: Plan) -> list[tuple[Step, ...]]:
    return [node.steps for node in plan.nodes]


@pytest.mark.parametrize(
    ("head", "worker", "restart", "expected"),
    [
        (RUNS, JOINED, Restart.IF_CHANGED, [(), ()]),
        (Found(), Found(), Restart.IF_CHANGED, [ALL, ALL]),
        (RUNS, Found(), Restart.IF_CHANGED, [(), ALL]),
        (RUNS, Found(), Restart.NEVER, [(), ALL]),
        (RUNS, JOINED, Restart.ALL_WITHOUT_SETUP, [(Step.STOP, Step.START)] * 2),
        (Found(), JOINED, Restart.IF_CHANGED, [ALL, (Step.STOP, Step.START)]),
    ],
)
def test_steps_are_what_differs(
    head: Found, worker: Found, restart: Restart, expected: list[tuple[Step, ...]]
) -> None:
    assert steps(make_plan(WANTED, {"h": head, "w": worker}, restart)) == expected


def changed(found: Found, **fields: object) -> Found:
    return Found(**({name: getattr(found, name) for name in Found.__dataclass_fields__} | fields))  # type: ignore[arg-type]


def test_a_head_that_crashed_comes_back_and_its_workers_go_on() -> None:
    crashed = changed(RUNS, runs=False, can_come_back=True)
    plan = make_plan(WANTED, {"h": crashed, "w": JOINED})
    assert steps(plan) == [(Step.COME_BACK,), ()] and not plan.ends_something
    other = changed(crashed, start="older")
    plan = make_plan(WANTED, {"h": other, "w": JOINED})
    assert steps(plan) == [(Step.STOP, Step.START), (Step.STOP, Step.START)]


def test_a_head_that_runs_is_told_what_comes_and_goes_and_is_not_restarted() -> None:
    grows = [Wanted(HEAD, "f", "s", "r", scaling="new")]
    alone = changed(RUNS, hosts=("h",))
    for told, expected in (("new", ()), ("old", (Step.SCALING,)), ("", (Step.SCALING,))):
        plan = make_plan(grows, {"h": changed(alone, scaling=told)})
        assert steps(plan) == [expected] and not plan.ends_something
    assert steps(make_plan(grows, {"h": changed(RUNS, start="other", scaling="old")})) == [
        (Step.STOP, Step.START)
    ], "a start tells it, too"
    assert steps(make_plan(WANTED[:1], {"h": changed(RUNS, scaling="old")})) == [()]


SLURM = {
    "cluster_name": "jobs", "provider": {"type": "slurm", "partition": "main"},
    "available_node_types": {"job": {"resources": {"CPU": 1}, "max_workers": 2}},
}  # fmt: skip


def test_a_file_of_jobs_is_a_head_here_or_there_and_the_rest_its_autoscaler_s() -> None:
    here = check(SLURM)
    assert here.provider.head_ip == "" and provider_of(here).head().listens_at
    assert here.autoscaling is not None
    assert here.autoscaling["provider"] == {"type": "slurm", "partition": "main"}
    assert set(here.autoscaling) == {"cluster_name", "provider", "available_node_types"}
    assert here.head_start_ray_commands == ["nbray start --head --port=0 --num-cpus=0"]
    named = check(SLURM | {"provider": {"type": "slurm", "head_ip": "login1"}}, "other")
    assert provider_of(named).head() == Machine("login1", True)
    assert named.autoscaling is not None and named.autoscaling["cluster_name"] == "other"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"docker": {"image": "i"}}, "docker is nothing for a cluster on Slurm"),
        ({"worker_setup_commands": ["x"]}, "set up by provider.prologue"),
        ({"min_workers": 1}, "each of available_node_types has its own"),
        ({"available_node_types": None}, "names no type of workers"),
        ({"provider": {"type": "slurm", "partitoin": "x"}}, "of Slurm's jobs there are partition"),
        ({"provider": {"type": "slurm", "walltime": 60}}, "put it in quotes"),
        ({"provider": {"type": "slurm", "head_ip": "a b"}}, "neither an address nor the name"),
        ({"autoscaling": {}}, "autoscaling is no key"),
        ({"idle_timeout_minuts": 5}, "Did you mean idle_timeout_minutes"),
    ],
)
def test_what_is_nothing_for_jobs_is_refused_with_what_to_do(
    given: dict[str, object], said: str
) -> None:
    with pytest.raises(ClusterFileError, match=said):
        check(SLURM | given)


def test_what_was_cut_off_is_done_again() -> None:
    plan = make_plan(WANTED, {"h": RUNS, "w": changed(JOINED, start="", joined="")})
    assert steps(plan) == [(), (Step.STOP, Step.START)]
    plan = make_plan(WANTED, {"h": RUNS, "w": Found(files="f")})
    assert steps(plan) == [(), (Step.SETUP, Step.START)]


def test_hosts_that_are_named_no_more_leave_and_those_that_fail_stop_nobody_else() -> None:
    plan = make_plan(WANTED[:1], {"h": RUNS})
    assert plan.leaving == (Machine("w"),) and plan.ends_something
    plan = make_plan(WANTED, {"h": RUNS, "w": Found(error="away")})
    assert plan.failed == {"w": "away"} and len(plan.nodes) == 1 and not plan.leaving
    plan = make_plan(WANTED, {"h": Found(error="away"), "w": JOINED})
    assert not plan.nodes and plan.failed == {"h": "away"}


LOCAL = {"cluster_name": "c", "provider": {"type": "local", "head_ip": "h", "worker_ips": ["w"]}}


def test_a_file_has_rays_defaults() -> None:
    file = check(LOCAL)
    assert file.min_workers is None and file.upscaling_speed == 1.0 and not file.file_mounts
    assert file.head_start_ray_commands[-1].endswith("nbray start --head --port=6379")
    assert check({**LOCAL, "max_workers": None, "auth": {"ssh_user": None}}) == file
    assert yaml.safe_dump(asdict(check(LOCAL, "other"))["cluster_name"]).startswith("other")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cluster_nam": "x"}, "cluster_nam is no key. Did you mean cluster_name?"),
        ({"auth": {"ssh_usr": "x"}}, "auth.ssh_usr is no key. Did you mean ssh_user?"),
        ({"cluster_name": "../x"}, "names folders"),
        ({"min_workers": -1}, "min_workers"),
        ({"available_node_types": {}}, "not supported for on-premise clusters"),
        ({"provider": {"type": "aws"}}, "provider.type 'aws' is not supported"),
        ({"provider": {"type": "local"}}, "Please supply a `head_ip`"),
        ({"provider": {"type": "local", "head_ip": "-oProxyCommand=x"}}, "neither an address"),
        ({"provider": {"type": "local", "head_ip": "h", "worker_ips": ["h"]}}, "named twice"),
        ({"auth": {"ssh_user": "a b"}}, "no name of a user"),
        ({"auth": {"ssh_port": 70000}}, "ssh_port"),
        ({"file_mounts": {"relative": "x"}}, "begins neither with / nor with ~/"),
        ({"file_mounts_sync_continuously": True}, "rsync-up -A"),
    ],
)
def test_what_a_file_cannot_say_is_told_by_name(changes: dict[str, object], why: str) -> None:
    with pytest.raises(ClusterFileError) as caught:
        check({**LOCAL, **changes})
    assert why in str(caught.value)


def test_the_hash_of_files_is_that_of_their_contents(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a").write_text("1")
    mounts = {"~/x": str(tmp_path)}
    first = hash_of(mounts)
    assert hash_of(mounts) == first != hash_of({"~/y": str(tmp_path)})
    (tmp_path / "d" / "a").write_text("2")
    assert hash_of(mounts) != first
    left_out = hash_of(mounts, ["d/**"])
    (tmp_path / "d" / "a").write_text("3")
    assert hash_of(mounts, ["d/**"]) == left_out
    with pytest.raises(ClusterFileError, match="is not there"):
        hash_of({"~/x": str(tmp_path / "none")})


def test_a_hosts_answer_is_read_whatever_its_shell_prints(tmp_path: Path) -> None:
    record = tmp_path / "a record"
    record.mkdir()
    for name, text in (("files", "f"), ("start", "r /s"), ("hosts", "h w\n")):
        (record / name).write_text(text)
    asked = subprocess.run(
        ["sh", "-c", question(remote_path(str(record)))], capture_output=True, text=True,
        check=True,
        env={"SSH_CONNECTION": "10.0.0.1 5 ::ffff:10.0.0.2 22", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    found = read(f"Welcome!\n{asked.stdout}", True)
    assert (found.files, found.start, found.joined, found.hosts) == ("f", "r", "/s", ("h", "w"))
    assert found.own_address == "10.0.0.2" and not found.runs and not found.error
    assert "something else" in read("This account is disabled.", True).error


def test_a_container_is_another_one_when_its_options_change() -> None:
    def of(**docker: object) -> ClusterFile:
        return check({**LOCAL, "docker": {"image": "i", "container_name": "n", **docker}})

    one = container_of(of(), is_head=True)
    other = container_of(of(head_run_options=["-v /x:/y"]), is_head=True)
    assert one is not None and other is not None and one.hash != other.hash
    assert one == container_of(of(worker_run_options=["-v /x:/y"]), is_head=True)
    assert "-v /x:/y" in other.make("~/r") and one.tool == "docker"
    with pytest.raises(ClusterFileError, match="container_name is missing"):
        container_of(check({**LOCAL, "docker": {"image": "i"}}), is_head=True)
    plan = make_plan([Wanted(HEAD, "f", "s", "r", "new")], {"h": changed(RUNS, container="old")})
    assert steps(plan) == [(Step.STOP, Step.CONTAINER, *ALL)]
