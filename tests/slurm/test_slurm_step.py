"""What Slurm's variables and lists of hosts say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.slurm.hostlist import MOST_HOSTS, expand
from nbray.slurm.meeting import MeetingPoint
from nbray.slurm.step import NotInStepError, find_step

VARIABLES = {
    "SLURM_CLUSTER_NAME": "big one", "SLURM_JOB_ID": "71", "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "cn[08-10]", "SLURM_JOB_NODELIST": "cn[08-12]",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", []),
        ("login1", ["login1"]),
        ("a,b", ["a", "b"]),
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("cn[008-011,3]", ["cn008", "cn009", "cn010", "cn011", "cn3"]),
        ("r[1-2]n[1-2]-ib", ["r1n1-ib", "r1n2-ib", "r2n1-ib", "r2n2-ib"]),
        ("n[1-2],m7,[3-4]x", ["n1", "n2", "m7", "3x", "4x"]),
        (" a , n[ 1 , 2-3 ] ", ["a", "n1", "n2", "n3"]),
        ("n[99-101]", ["n99", "n100", "n101"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
    ],
)
def test_a_list_of_hosts_is_expanded_in_its_order(text: str, hosts: list[str]) -> None:
    assert expand(text) == hosts


@pytest.mark.parametrize(
    "text", ["n[1-", "n1]", "n[[1]]", "n[]", "n[a-b]", "n[3-1]", "n[-1]", f"n[0-{10**9}]",
             "n[1-999]m[1-999]", "n[\u0661]"],
)  # fmt: skip
def test_what_is_no_list_of_hosts_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match="list of hosts"):
        expand(text)


@given(st.lists(st.integers(0, MOST_HOSTS - 1), min_size=1, max_size=20), st.integers(1, 6))
def test_every_list_of_numbers_comes_back_as_it_was_written(numbers: list[int], width: int) -> None:
    written = [str(number).zfill(width) for number in numbers]
    assert expand(f"n[{','.join(written)}]") == [f"n{number}" for number in written]


@given(st.text(alphabet="ab[],-019 ", max_size=20))
def test_any_text_is_a_list_or_refused(text: str) -> None:
    try:
        hosts = expand(text)
    except ValueError:
        return
    assert all("[" not in host and "," not in host for host in hosts)


def test_a_task_of_srun_knows_its_place_and_the_hosts_of_its_step() -> None:
    step = find_step(VARIABLES)
    assert (step.rank, step.tasks, step.local) == (1, 3, 0)
    assert step.hosts == ("cn08", "cn09", "cn10")
    assert step.key == "big_one-71-0-0"


def test_a_job_that_runs_again_meets_elsewhere_than_before() -> None:
    assert find_step({**VARIABLES, "SLURM_RESTART_COUNT": "1"}).key != find_step(VARIABLES).key


def test_parts_of_a_heterogeneous_job_meet_at_one_place() -> None:
    parts = [{**VARIABLES, "SLURM_HET_JOB_ID": "70", "SLURM_JOB_ID": job} for job in ("70", "71")]
    assert len({find_step(part).key for part in parts}) == 1


def test_the_script_of_a_job_is_told_to_use_srun() -> None:
    script = {"SLURM_JOB_ID": "71", "SLURM_JOB_NUM_NODES": "2", "SLURM_PROCID": "0"}
    with pytest.raises(NotInStepError, match=r"2 node\(s\).*srun --ntasks-per-node=1"):
        find_step(script)


def test_the_first_task_tells_its_address_and_takes_it_back(tmp_path: Path) -> None:
    first, other = MeetingPoint("a-1-0-0", tmp_path), MeetingPoint("a-1-0-0", tmp_path)
    assert other.ask() == ""
    first.tell("10.0.0.1:4000")
    assert other.ask() == "10.0.0.1:4000"
    assert MeetingPoint("a-1-1-0", tmp_path).ask() == ""
    first.forget()
    first.forget()
    assert other.ask() == "" and not other.was_given_up
    first.give_up()
    assert other.ask() == "" and other.was_given_up
