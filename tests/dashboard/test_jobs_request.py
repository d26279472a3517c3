"""What a request to run a job may say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbray.dashboard.jobs_request import BadRequest, read_request


def ask(**fields: Any) -> Any:
    return read_request(json.dumps({"entrypoint": "true", **fields}).encode())


def test_a_request_of_rays_client_is_a_row() -> None:
    row = ask(
        submission_id="one", metadata={"k": "v"}, entrypoint_num_cpus=0.5, entrypoint_num_gpus=None,
        entrypoint_memory=1 << 20, entrypoint_resources={"custom": 1},
        runtime_env={"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"A": "b"}, "_ray": 1},
        entrypoint_label_selector={"zone": "a"}, something_new=1,
    )  # fmt: skip
    assert (row.submission_id, row.metadata) == ("one", {"k": "v"})
    assert row.amounts == {"CPU": 0.5, "memory": 1 << 20, "custom": 1}
    assert json.loads(row.runtime_env) == {
        "working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"A": "b"},
    }  # fmt: skip
    assert row.label_selector == {"zone": "a"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"entrypoint": 1}, "entrypoint"),
        ({"entrypoint": " "}, "entrypoint"),
        ({"entrypoint": "a\0b"}, "entrypoint"),
        ({"entrypoint": "x" * 100_001}, "entrypoint"),
        ({"submission_id": 1}, "submission_id"),
        ({"submission_id": ""}, "submission_id"),
        ({"submission_id": "../a"}, "submission_id"),
        ({"submission_id": ".."}, "submission_id"),
        ({"submission_id": "a\nb"}, "submission_id"),
        ({"submission_id": "ä" * 150}, "submission_id"),
        ({"submission_id": "ä" * 90}, "no name of a file"),  # %C3%A4 in the name of its log
        ({"metadata": {"k": 1}}, "metadata"),
        ({"metadata": {"k": "x" * 70_000}}, "metadata"),
        ({"metadata": {"k": "\0"}}, "metadata"),
        ({"entrypoint_num_cpus": -1}, "entrypoint_num_cpus"),
        ({"entrypoint_num_cpus": "2"}, "entrypoint_num_cpus"),
        ({"entrypoint_num_gpus": 1e300}, "entrypoint_num_gpus"),
        ({"entrypoint_memory": 1.5}, "entrypoint_memory"),
        ({"entrypoint_resources": {"CPU": 1}}, "CPU"),
        ({"entrypoint_resources": {"a": -1}}, "entrypoint_resources"),
        ({"runtime_env": {"working_dir": "/etc"}}, "/etc"),
        ({"runtime_env": {"working_dir": "gcs://.."}}, "is no package"),
        ({"runtime_env": {"env_vars": {"A": "x" * 120_000}}}, "may have 120,000 bytes together"),
        (
            {"runtime_env": {"env_vars": {"A": "x" * 60_000}}, "metadata": {"k": "x" * 60_000}},
            "runtime_env and metadata may have",
        ),
        ({"runtime_env": {"py_modules": ["https://example.invalid/a.zip"]}}, "a.zip"),
        ({"runtime_env": {"py_modules": 5}}, "runtime_env names '5'"),
        ({"runtime_env": {"pip": "/etc/passwd"}}, "pip"),
        ({"runtime_env": {"pip": {"packages": "/etc/passwd"}}}, "pip"),
        ({"runtime_env": {"nonsense": 1}}, "nonsense"),
        ({"runtime_env": {"env_vars": {"a": 1}}}, "env_vars"),
    ],
)
def test_what_cannot_be_is_refused_by_its_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        ask(**fields)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_do_more_than_be_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        read_request(body)


def test_deeply_nested_and_odd_json_is_refused() -> None:
    for body in (b'{"entrypoint":' + b"[" * 100_000, b"null", b"[]", b'{"entrypoint": "\xff"}'):
        with pytest.raises(BadRequest):
            read_request(body)
