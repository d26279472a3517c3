"""Keywords of Ray's: those that mean something here do, the others are taken in silence."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.job_config import JobConfig
from nbray.util.state import list_jobs


def test_parameters_have_rays_names(cluster: Path) -> None:
    ref = nbray.put(1, _owner=None, _tensor_transport=None)
    assert nbray.get(object_refs=ref, timeout=30, _use_object_store=True) == 1
    assert nbray.wait(ray_waitables=[ref], timeout=30) == ([ref], [])
    nbray.cancel(ray_waitable=ref)
    assert nbray.ObjectRef.from_hex(hex_id=ref.hex()) == ref
    assert nbray.JobID.from_int(value=3).int() == 3
    nbray.shutdown(wait_for_processes=True)


def test_what_has_no_meaning_here_is_ignored_with_one_line(
    session_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="nbray.common.ignoring")
    for _ in range(2):
        nbray.init(
            num_cpus=1, _redis_password="x", _enable_object_reconstruction=1, _temp_dir=None,
            enable_resource_isolation=False, cgroup_path=None, system_reserved_memory=None,
        )  # fmt: skip
        nbray.shutdown()

    @nbray.remote(enable_task_events=False, _labels={"a": "b"})
    def one() -> int:
        return 1

    @nbray.remote(enable_tensor_transport=False, object_store_memory=100, enable_task_events=False)
    class Actor:
        @nbray.method(enable_task_events=False)
        def one(self) -> int:
            return 1

    nbray.init(num_cpus=1)
    called = one.options(enable_task_events=False).remote()
    handle = Actor.options(_metadata={}, _labels=None).remote()
    refs = [called, handle.one.remote(), handle.one.options(enable_task_events=False).remote()]
    assert nbray.get(refs, timeout=30) == [1, 1, 1]
    lines = [record.getMessage() for record in caplog.records]
    assert sum("_redis_password" in line for line in lines) == 1
    assert len([line for line in lines if "enable_task_events" in line]) <= 2
    with pytest.raises(ValueError, match="not implemented for tasks"):
        one.options(object_store_memory=100)


@pytest.mark.parametrize(
    ("keyword", "value", "why"),
    [
        ("_temp_dir", "/scratch", "NBRAY_TMPDIR"),
        ("_plasma_directory", "/dev/shm", "memory without a file"),
        ("_metrics_export_port", 8080, "/metrics"),
        ("_node_name", "n", "labels"),
        ("_tracing_startup_hook", "a:b", "nbray timeline"),
        ("proxy_server_url", "http://h", "its own cluster"),
        ("enable_resource_isolation", True, "num_cpus and memory"),
        ("cgroup_path", "/sys", "by cgroups"),
        ("system_reserved_cpu", 0.5, "by cgroups"),
        ("system_reserved_memory", 1, "by cgroups"),
    ],
)
def test_what_would_not_come_true_is_refused_by_name_with_the_reason(
    session_root: Path, keyword: str, value: object, why: str
) -> None:
    with pytest.raises(ValueError, match=rf"init\({keyword}=\) .* nbray refuses: .*{why}"):
        nbray.init(num_cpus=1, **{keyword: value})
    assert not nbray.is_initialized() and not list(session_root.iterdir())


def test_settings_of_a_cluster_that_runs_are_refused_as_in_ray(cluster: Path) -> None:
    address = nbray.get_runtime_context().gcs_address
    nbray.shutdown()
    first = nbray.init("local", num_cpus=1)
    joining = (
        "import nbray, sys\n"
        "try: nbray.init(sys.argv[1], _system_config={'task_oom_retries': 1})\n"
        "except ValueError as error: print(error)\n"
        "nbray.init(sys.argv[1], _system_config={})"
    )
    command = [sys.executable, "-c", joining, first.address_info["gcs_address"]]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "When connecting to an existing cluster, _system_config must not be provided" in said
    assert address


def test_an_unknown_keyword_is_refused_with_what_was_meant(session_root: Path) -> None:
    with pytest.raises(RuntimeError, match=r"Unknown keyword argument\(s\): num_cpu\..*num_cpus"):
        nbray.init(num_cpu=1)
    with pytest.raises(RuntimeError, match="Unknown keyword"):
        nbray.init(temp_dir="/tmp")
    with pytest.raises(RuntimeError, match=r"Unknown keyword argument\(s\): _memry.*_memory"):
        nbray.init(_memry=1)
    assert not nbray.is_initialized()


@nbray.remote
def settings() -> tuple[float, dict[str, float]]:
    from nbray.common.config import Config

    return Config.from_env().health_check_period_s, nbray.cluster_resources()


def test_settings_of_ray_that_nbray_has_are_applied(
    session_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_max_direct_call_object_size", "4096")
    nbray.init(
        num_cpus=1, _memory=1 << 30, _node_ip_address="127.0.0.1",
        _system_config={"health_check_period_ms": 7000, "a_setting_of_rays": 1},
    )  # fmt: skip
    from nbray.driver.driver import current_core

    assert current_core().config.max_inline_bytes == 4096
    period, resources = nbray.get(settings.remote(), timeout=30)
    assert period == current_core().config.health_check_period_s == 7
    assert resources["memory"] == 1 << 30


@pytest.mark.parametrize(
    "config", [3, {"health_check_period_ms": "soon"}, {"memory_usage_threshold": float("nan")}]
)
def test_a_setting_that_cannot_be_starts_nothing(session_root: Path, config: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"_system_config|Ray's setting"):
        nbray.init(num_cpus=1, _system_config=config)
    assert not list(session_root.iterdir())


def test_a_job_config_says_what_init_can_say_and_more(session_root: Path, tmp_path: Path) -> None:
    (tmp_path / "of_the_job.py").write_text("ANSWER = 42\n")
    config = JobConfig(
        code_search_path=[str(tmp_path)], ray_namespace="theirs", metadata={"who": "me"},
        runtime_env={"env_vars": {"OF_JOB": "1"}}, default_actor_lifetime="detached",
    )  # fmt: skip
    config.set_metadata("why", "")
    nbray.init(num_cpus=2, job_config=config)

    @nbray.remote
    def there() -> tuple[str | None, int]:
        import os

        import of_the_job  # type: ignore[import-not-found]

        return os.environ.get("OF_JOB"), of_the_job.ANSWER

    @nbray.remote
    class Actor:
        def name(self) -> str | None:
            return nbray.get_runtime_context().get_actor_name()

    assert nbray.get(there.remote(), timeout=30) == ("1", 42)
    assert nbray.get_runtime_context().namespace == "theirs"
    (job,) = list_jobs(detail=True)
    assert job.metadata == {"who": "me", "why": ""}
    kept = Actor.options(name="kept").remote()
    assert nbray.get(kept.name.remote(), timeout=30) == "kept"
    del kept
    assert nbray.get(nbray.get_actor("kept").name.remote(), timeout=30) == "kept"


def test_a_job_config_that_cannot_be_is_refused(session_root: Path) -> None:
    with pytest.raises(ValueError, match="`detached`, `non_detached`"):
        JobConfig(default_actor_lifetime="long")
    with pytest.raises(TypeError, match="code search path"):
        JobConfig(code_search_path="/a")  # type: ignore[arg-type]
    for config in (3, {"metadata": {"a": 1}}, {"metadata": {"\udce9": "x"}}, {"ray_namespace": ""}):
        with pytest.raises((TypeError, ValueError)):
            nbray.init(num_cpus=1, job_config=config)  # type: ignore[arg-type]
    assert not list(session_root.iterdir())
    assert JobConfig.from_json({"metadata": {"a": "b"}}).metadata == {"a": "b"}


def test_a_label_selector_is_checked_at_the_decorator() -> None:
    with pytest.raises(ValueError, match="Invalid label"):

        @nbray.remote(label_selector={"a b": "c"})
        class Actor:
            pass
