"""Arguments of `init`, and of what it starts, that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.common.addresses import own_address

REFUSED = (ValueError, TypeError)
STORES = [0, -1, float("nan"), float("inf"), 1e30, "", 1 << 70]


@nbray.remote
def one() -> int:
    return 1


@pytest.mark.parametrize(
    "wanted",
    [
        *({"num_cpus": n} for n in [-1, float("nan"), float("inf"), 1e30, "", 1 << 70, 10**5000]),
        *({"num_gpus": n} for n in [-1, float("nan"), 1e30, 1 << 31, 0.00001]),
        *({"object_store_memory": n} for n in STORES),
        *({"resources": r} for r in [{"": 1}, {"\udce9": 1}, {"x": float("nan")}, {1: 1}, 3]),
        *({"resources": {r: 1}} for r in ["CPU", "GPU", "memory", "object_store_memory"]),
        {"resources": ["x"]},
        *({"namespace": n} for n in [123, "", "\udce9", "x" * 10**6, b"x"]),
        *({"labels": n} for n in [3, {"x": "\udce9"}, {"": "x"}, {"x": 1}]),
        {"object_spilling_directory": "a\0b"},
        {"runtime_env": {"py_executable": "'"}},
        {"runtime_env": {"py_executable": " "}},
    ],
    ids=lambda wanted: next(iter(wanted)),
)  # fmt: skip
def test_init_refuses_what_cannot_be_and_leaves_nothing(
    session_root: Path, wanted: dict[str, Any]
) -> None:
    with pytest.raises(REFUSED) as told:
        nbray.init(**wanted)
    assert "Errno" not in str(told.value)
    assert not nbray.is_initialized() and not list(session_root.iterdir())


def test_an_address_that_is_none_is_told_before_a_token_is_missed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NBRAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConnectionError, match="'foo://host' is no address of a cluster"):
        nbray.init("foo://host")
    with pytest.raises(OSError, match="There is no host 'nobody"):
        own_address("nobody.invalid:6379")


def test_a_store_may_be_given_as_a_float(session_root: Path) -> None:
    nbray.init(num_cpus=1.0, object_store_memory=100e6)
    assert nbray.get(one.remote(), timeout=60) == 1


def test_a_command_that_is_not_there_fails_what_asked_for_it(session_root: Path) -> None:
    nbray.init(num_cpus=1, object_store_memory=32 << 20)
    for command in ("/no/such/python", "/etc/passwd", "/"):
        env = {"py_executable": command}
        with pytest.raises(nbray.exceptions.RuntimeEnvSetupError, match="Failed to set up"):
            nbray.get(one.options(runtime_env=env).remote(), timeout=60)
    assert nbray.get(one.remote(), timeout=60) == 1
