"""Scripts of jobs, and what squeue says of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.common.pids import machine
from nbray.slurm.homes import ClusterHome, cluster_homes, instance_of, job_name
from nbray.slurm.queue import Row, Standing, explain, left, rows, standing
from nbray.slurm.script import (
    Job,
    JobSettings,
    job_script,
    read_settings,
    task_memory,
    walltime_s,
    without_overridden,
)

JOB = Job(
    name="nbray:mine:big:i-1", output="/home/ada/my logs/i-1.out", token_file="/home/ada/t",
    words=["start", "--address=10.0.0.1:6379", "--labels", '{"a": "it\'s"}'],
    resources={"CPU": 3.5, "GPU": 2, "memory": 7 << 30},
)  # fmt: skip


def directives(script: str) -> list[str]:
    return [line for line in script.splitlines() if line.startswith("#SBATCH")]


def test_a_script_says_what_the_settings_say() -> None:
    settings = read_settings(
        {"partition": "gpu", "account": "a b", "walltime": "1:30:00", "prologue": "module load x",
         "python": "/opt/py/bin/python", "interface": "ib0"},
        {"partition": "fat", "job_extra_directives": ["--qos=debug"]},
    )  # fmt: skip
    assert job_script(settings, JOB) == (
        "#!/usr/bin/env bash\n"
        "#SBATCH --job-name=nbray:mine:big:i-1\n"
        "#SBATCH --output='/home/ada/my logs/i-1.out'\n"
        "#SBATCH --partition=fat\n"
        "#SBATCH --account='a b'\n"
        "#SBATCH --time=1:30:00\n"
        "#SBATCH --nodes=1\n"
        "#SBATCH --ntasks=1\n"
        "#SBATCH --cpus-per-task=4\n"
        "#SBATCH --mem=10240M\n"
        "#SBATCH --gres=gpu:2\n"
        "#SBATCH --signal=B:USR1@120\n"
        "#SBATCH --no-requeue\n"
        "#SBATCH --qos=debug\n"
        "\n"
        "module load x\n"
        "unset NBRAY_AUTH_TOKEN\n"
        "export NBRAY_AUTH_TOKEN_PATH=/home/ada/t\n"
        "exec /opt/py/bin/python -P -m nbray.cli start --address=10.0.0.1:6379 --labels "
        '\'{"a": "it\'"\'"\'s"}\' --block --interface=ib0\n'
    )


def test_without_settings_a_script_leaves_the_rest_to_the_site() -> None:
    text = job_script(JobSettings(), Job(name="n", output="o", words=[], token_file="t",
                                         resources={"CPU": 1}))  # fmt: skip
    assert [line.split("=")[0] for line in directives(text)] == [
        f"#SBATCH --{name}" for name in ("job-name", "output", "nodes", "ntasks", "cpus-per-task",
                                         "signal", "no-requeue")
    ]  # fmt: skip
    assert f"exec {sys.executable} -P -m nbray.cli --block" in text


def test_directives_are_left_out_by_either_name_and_replaced_by_extra_ones() -> None:
    settings = read_settings({
        "job_directives_skip": ["--mem", "-n"], "partition": "x",
        "job_extra_directives": ["-p debug", "--gres=gpu:a100:2"],
    })  # fmt: skip
    said = directives(job_script(settings, JOB))
    assert not [line for line in said if "--mem" in line or "--ntasks" in line]
    assert [line for line in said if "-p" in line.split() or "partition" in line] == [
        "#SBATCH -p debug"
    ]
    assert [line for line in said if "gres" in line] == ["#SBATCH --gres=gpu:a100:2"]


def test_a_shell_reads_the_words_of_a_script_as_they_were_given(tmp_path: Path) -> None:
    odd = ["it's", "two words", "$HOME", "`x`", "ä\\", ""]
    python = tmp_path / "a python"
    python.write_text('#!/bin/bash\nprintf "%s|" "${@:4}"\n')
    python.chmod(0o700)
    job = Job(name="n", output="o", words=odd, token_file="t", resources={})
    script = job_script(JobSettings(python=str(python)), job)
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split("|") == [*odd, "--block", ""]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"walltime": 5400}, "put it in quotes"),
        ({"walltime": "an hour"}, "is no time of Slurm's"),
        ({"walltime": "3:59"}, "is too short"),
        ({"partition": "a\n#SBATCH --uid=0"}, "more than one line"),
        ({"job_extra_directives": ["qos=debug"]}, "begins with a dash"),
        ({"job_directives_skip": ["-J"]}, "--job-name, so it stays"),
        ({"partitoin": "x"}, "of Slurm's jobs there are partition"),
        ({"prologue": 3}, "prologue"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_settings(given)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("5:30", 330), ("1:30:00", 5400), ("2-12", 216000), ("2-0:30", 174600),
     ("1-00:00:01", 86401)],
)  # fmt: skip
def test_a_walltime_is_read_as_slurm_reads_it(text: str, seconds: int) -> None:
    assert walltime_s(text) == seconds


def test_sbatch_does_not_hear_of_an_outer_job_nor_of_what_the_script_says() -> None:
    outer = {
        "PATH": "/bin", "SLURM_CONF": "/c", "SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "1",
        "SBATCH_JOB_NAME": "x", "SBATCH_PARTITION": "p", "SBATCH_ACCOUNT": "a",
        "SBATCH_TIMELIMIT": "5", "SQUEUE_FORMAT": "%i", "SLURM_TIME_FORMAT": "relative",
        "NBRAY_AUTH_TOKEN": "s", "JPY_PARENT_PID": "3", "NBRAY_PULL_TIMEOUT_S": "9",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }  # fmt: skip
    script = job_script(read_settings({"partition": "q", "walltime": "10"}), JOB)
    assert without_overridden(outer, script) == {
        "PATH": "/bin", "SLURM_CONF": "/c", "SBATCH_ACCOUNT": "a", "NBRAY_PULL_TIMEOUT_S": "9",
    }  # fmt: skip


def test_a_job_has_the_memory_of_its_tasks_and_of_its_store() -> None:
    assert task_memory(10 << 30) == 7 << 30
    job = Job(name="n", output="o", words=[], token_file="t",
              resources={"memory": 1 << 30, "object_store_memory": 2 << 30})  # fmt: skip
    assert "#SBATCH --mem=3072M" in job_script(JobSettings(), job)


def test_rows_of_squeue_are_read_whatever_jobs_are_called() -> None:
    text = (
        "71|RUNNING|1-02:03:04|sn1|None|nbray:mine:job:i-1\n"
        "72_3|PENDING|UNLIMITED||(Nodes required for job are DOWN, DRAINED)|a|b\nc|d\n"
        "|RUNNING|||| \n"
        "slurm_load_jobs: a word of the site\n"
        "73|PENDING|30:00||Priority|\n"
        "74|PENDING\n"
    )
    assert list(rows(text)) == [
        Row("71", "RUNNING", 93784.0, "sn1", "None", "nbray:mine:job:i-1"),
        Row("72_3", "PENDING", None, "", "(Nodes required for job are DOWN, DRAINED)", "a|b"),
        Row("73", "PENDING", 1800.0, "", "Priority", ""),
    ]


@given(st.text(max_size=200))
def test_any_text_has_rows_or_none(text: str) -> None:
    assert all(row.id[0].isdigit() for row in rows(text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("59", 59), ("1:00", 60), ("1:00:00", 3600), ("2-00:00:01", 172801), ("INVALID", None),
     ("NOT_SET", None), ("", None), ("-5", None)],
)  # fmt: skip
def test_the_time_that_is_left_is_read(text: str, seconds: float | None) -> None:
    assert left(text) == seconds


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row("7", "PENDING", None, "", "Resources", ""),
         "Slurm job 7 is PENDING: Resources (it waits until nodes are free)"),
        (Row("7", "PENDING", None, "", "JobHeldUser", ""),
         "Slurm job 7 is PENDING: JobHeldUser (its user holds it; `scontrol release 7` lets it "
         "go)"),
        (Row("7", "PENDING", None, "", "QOSMaxCpuPerUserLimit", ""),
         "Slurm job 7 is PENDING: QOSMaxCpuPerUserLimit (a limit of the QOS is reached)"),
        (Row("7", "PENDING", None, "", "Something\nnew {id}", ""),
         "Slurm job 7 is PENDING: Something new {id}"),
        (Row("7", "RUNNING", 5.0, "sn1", "None", ""), "Slurm job 7 is RUNNING on sn1"),
        (Row("7", "NODE_FAIL", None, "sn1", "NodeDown", ""),
         "Slurm job 7 ended on sn1, NODE_FAIL: NodeDown"),
        (Row("7", "TIMEOUT", None, "sn1", "None", ""), "Slurm job 7 ended on sn1, TIMEOUT"),
    ],
)  # fmt: skip
def test_where_a_job_stands_is_said_in_a_sentence(row: Row, said: str) -> None:
    assert explain(row) == said


def test_a_word_of_a_newer_slurm_is_no_end() -> None:
    assert standing("DREAMING") is Standing.STARTS


@given(st.text("abc.-_", min_size=1), st.text("ab.:-", min_size=1), st.text("ab-", min_size=1))
def test_a_jobs_name_says_which_instance_it_is_and_of_which_cluster(
    cluster: str, type: str, id: str
) -> None:
    name = job_name(cluster, type, id)
    assert instance_of(name, cluster) == (type, id)
    assert instance_of(name, f"{cluster}x") is None


def test_a_cluster_whose_head_has_gone_is_an_orphan_and_no_other_is(tmp_path: Path) -> None:
    home = ClusterHome("mine", tmp_path)
    home.hold(b"secret", "/tmp/session")
    assert home.token.stat().st_mode & 0o777 == 0o600
    assert not home.is_orphan(lambda session: session == Path("/tmp/session"))
    assert home.is_orphan(lambda _session: False)
    assert [found.name for found in cluster_homes(tmp_path)] == ["mine"]
    elsewhere = home.path / "holder"
    said = elsewhere.read_text()
    elsewhere.write_text(said.replace('"host": "', '"host": "other-'))
    assert not home.is_orphan(lambda _session: False)
    elsewhere.write_text(said.replace(machine().partition("/")[0], "an-earlier-boot"))
    assert home.is_orphan(lambda _session: True)
    elsewhere.write_text("{")
    assert not home.is_orphan(lambda _session: False)
    home.forget()
    assert not list(cluster_homes(tmp_path))
