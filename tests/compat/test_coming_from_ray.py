"""Lines of docs/coming-from-ray.md that no other test holds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from io import StringIO
from pathlib import Path

import pytest
from support.ports import free_port
from support.programs import told

import nbray
import nbray.util
from nbray.experimental.plain_bar import PlainBar

_MODULES = """
_common.network_utils _common.usage.usage_lib _common.utils _private.auto_init_hook
_private.client_mode_hook _private.internal_api _private.ray_constants _private.services
_private.state _private.usage.usage_lib _private.utils _private.worker _raylet actor cloudpickle
cluster_utils dag data exceptions experimental.internal_kv experimental.multiprocessing
experimental.queue experimental.state.api experimental.tqdm_ray job_config job_submission
ray_constants remote_function runtime_context runtime_env runtime_env.runtime_env types
util.accelerators util.actor_pool util.annotations util.check_serialize util.client util.debug
util.helpers util.joblib util.joblib.ray_backend util.metrics util.multiprocessing.pool
util.placement_group util.queue util.scheduling_strategies util.state.api util.state.common
util.state.exception worker
"""
MODULES = _MODULES.split()


def test_modules_that_libraries_import_are_there(tmp_path: Path, session_root: Path) -> None:
    assert told(
        tmp_path,
        f"""
import importlib, json
import ray
before = [ray._private.services.get_node_ip_address().count("."), ray.worker.global_worker.mode]
for name in {MODULES!r}:
    assert importlib.import_module("ray." + name) is not None
from ray._private import internal_api, state, utils, worker
from ray.util.annotations import Deprecated, DeveloperAPI, PublicAPI
from ray.util.client import ray as client

@PublicAPI(stability="beta")
@DeveloperAPI
def documented():
    return 1

@Deprecated(message="Use another.", warning=True)
def old():
    return 2

ray.init(num_cpus=1)
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    made = old() + documented()
ref = ray.put(b"x" * 1_000_000)
internal_api.free([ref])

@ray.remote
def inside():
    w = ray._private.worker.global_worker
    return [w.mode == ray.WORKER_MODE, w.connected, ray.util.get_node_ip_address()]

w = worker.global_worker
node = w.node
print(json.dumps([
    before, made, len(caught), client.is_connected(), len(ray.get(ref)), ray.get(inside.remote()),
    w.mode == ray.SCRIPT_MODE, node.gcs_address == ray.get_runtime_context().gcs_address,
    ref.hex() in internal_api.memory_summary(),
    list(state.total_resources_per_node()) == list(state.available_resources_per_node())
    == [w.current_node_id.hex()],
    state.node_ids() == [state.current_node_id()], utils.get_system_memory() > 0,
    ray._raylet.ObjectRefGenerator is ray.ObjectRefGenerator, ray.types.ObjectRef is ray.ObjectRef,
    ray.get_runtime_context().get_resource_ids()["GPU"],
]))
""",
    ) == [
        [3, None], 3, 1, False, 1_000_000, [True, True, "127.0.0.1"], True, True, True, True, True,
        True, True, True, [],
    ]  # fmt: skip


def test_a_program_that_calls_the_command_ray(tmp_path: Path, home: Path) -> None:
    assert told(
        tmp_path,
        """
import json, os, subprocess
import ray

def command(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout

@ray.remote
class Actor:
    pass

try:
    started = command(
        "ray", "start", "--head", "--port=0", "--num-cpus=1", "--ray-client-server-port=PORT"
    )
    address = started.splitlines()[0].rpartition("cluster ")[2].rstrip(".")
    with ray.init("ray://localhost:PORT", namespace="colors"):
        Actor.options(name="orange", lifetime="detached").remote()
    with ray.init("ray://127.0.0.1:PORT", namespace="fruits"):
        try:
            ray.get_actor("orange")
            found = True
        except ValueError:
            found = False
    os.environ["RAY_ADDRESS"] = address
    context = ray.init(namespace="colors")
    there = ray.get_actor("orange") is not None
    same = context.address_info["gcs_address"] == address
    context.disconnect()
finally:
    stopped = command("ray", "stop", "--force")
print(json.dumps([found, there, same, stopped]))
""".replace("PORT", str(free_port())),
    ) == [False, True, True, "Stopped 1 node(s).\n"]


def test_variables_of_rays() -> None:
    program = (
        "import nbray\nfrom nbray.common.ray_settings import ray_variables\n"
        "from nbray.options.option import Scope\nfrom nbray.options.table import default_of\n"
        "print(default_of('max_retries', Scope.TASK), ray_variables())"
    )
    variables = {
        "RAY_TASK_MAX_RETRIES": "7", "RAY_health_check_timeout_ms": "2500",
        "RAY_record_ref_creation_sites": "true", "RAY_task_oom_retries": "1",
        "NBRAY_TASK_OOM_RETRIES": "2",
    }  # fmt: skip

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, **variables, **more},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    assert run().stdout == (
        "7 {'NBRAY_HEALTH_CHECK_TIMEOUT_S': '2.5', 'NBRAY_RECORD_REF_CREATION_SITES': '1'}\n"
    )
    assert "RAY_TASK_MAX_RETRIES is a number, not 'many'" in run(RAY_TASK_MAX_RETRIES="many").stderr
    wrong = run(RAY_health_check_timeout_ms="soon").stderr
    assert "Ray's setting health_check_timeout_ms is a number, not 'soon'" in wrong


def test_what_is_not_there_is_told_in_one_sentence(tmp_path: Path, session_root: Path) -> None:
    tries = [
        "import ray.train", "import ray.tune", "import ray.serve", "import ray.rllib",
        "import ray.workflow", "ray.data.from_pandas_refs([])", "ray.data.read_csv",
        "from ray.data import Preprocessor", "ray.client",
        "import ray.autoscaler.v2", "import ray.util.collective", "ray.cross_language",
        "import ray.util.rpdb", "import ray.util.tracing",
        "import ray.util.spark", "import ray.util.iter", "import ray.util.actor_group",
        "ray.init(runtime_env={'conda': 'x'})", "ray.init(local_mode=True)",
    ]  # fmt: skip
    answers = told(
        tmp_path,
        f"""
import json
import ray
def attempt(text):
    try:
        exec(text)
    except Exception as error:
        return str(error)
print(json.dumps([attempt(text) for text in {tries!r}]))
""",
    )
    assert isinstance(answers, list)
    for text, said in zip(tries, answers, strict=True):
        assert said and "\n" not in said, text
        assert "nbray" in said or "not supported" in said or "Unknown fields" in said, (text, said)


def test_pickles_of_refs_can_be_forbidden(cluster: Path) -> None:
    @nbray.remote
    def pickled() -> bytes:
        return nbray.cloudpickle.dumps(nbray.put(1))

    forbidden = {"env_vars": {"RAY_allow_out_of_band_object_ref_serialization": "0"}}
    assert nbray.get(pickled.remote(), timeout=60)
    with pytest.raises(nbray.exceptions.OufOfBandObjectRefSerializationException):
        nbray.get(pickled.options(runtime_env=forbidden).remote(), timeout=60)


def test_places_and_results_are_asked_for_by_rays_names(cluster: Path) -> None:
    from nbray.experimental import get_local_object_locations, get_object_locations

    small, large = nbray.put(1), nbray.put(b"x" * 1_000_000)
    here = nbray.get_runtime_context().get_node_id()
    found = get_object_locations([small, large], timeout_ms=30_000)
    assert found[small]["node_ids"] == [] and found[large]["node_ids"] == [here]
    assert found[large]["object_size"] >= 1_000_000 and found[large]["did_spill"] is False
    assert get_local_object_locations([large]) == {large: found[large]}

    from nbray.actor import ActorProxy

    assert nbray.ActorHandle[int] == ActorProxy[int]  # in annotations

    @nbray.remote
    def ask(refs: list[nbray.ObjectRef]) -> bool:
        return get_object_locations(refs)[refs[0]]["node_ids"] == [here]

    assert nbray.get(ask.remote([large]), timeout=60)
    assert nbray.util.get_node_ip_address() == "127.0.0.1"
    assert set(nbray.util.as_completed([small], timeout=30)) == {1}
    assert nbray.cloudpickle.loads(nbray.cloudpickle.dumps(obj=3)) == 3


def test_small_names_of_rays_that_programs_use(cluster: Path) -> None:
    with pytest.raises(DeprecationWarning, match="Dynamic custom resources are deprecated"):
        nbray.experimental.set_resource("disk", 2)
    assert nbray.util.get_node_instance_id() == ""
    nbray.autoscaler.sdk.request_resources(num_cpus=1)
    from nbray.util.debug import log_once, reset_log_once

    assert log_once("x") and log_once("y") and not log_once("x")
    reset_log_once()
    assert log_once("x") and log_once("y")
    from nbray.util.check_serialize import FailureTuple

    lock = threading.Lock()
    _, failures = nbray.util.inspect_serializability({"a": [lock]}, "config", print_file=StringIO())
    assert FailureTuple(lock, "f.closure.table['a']", None).path == ("f", "table", "['a']")
    assert [failure.obj for failure in failures] == [lock]


def test_the_state_api_is_one_object_too(cluster: Path) -> None:
    from nbray.util.state import StateApiClient
    from nbray.util.state.common import (
        GetApiOptions,
        ListApiOptions,
        StateResource,
        SummaryApiOptions,
        SummaryResource,
    )

    client = StateApiClient()
    alive = ListApiOptions(filters=[("state", "=", "ALIVE")], detail=True)
    (node,) = client.list(StateResource.NODES, options=alive, raise_on_missing_output=False)
    assert client.get(StateResource.NODES, node.node_id, options=GetApiOptions()) == node
    with pytest.raises(ValueError, match="Can't get RUNTIME_ENVS"):
        client.get(StateResource.RUNTIME_ENVS, "00", options=GetApiOptions())
    for resource in StateResource:
        assert isinstance(client.list(resource, ListApiOptions(), False), list)
    for counted in SummaryResource:
        assert "cluster" in client.summary(counted, options=SummaryApiOptions())


def test_a_bar_without_tqdm_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(PlainBar(range(3), desc="steps")) == [0, 1, 2]
    with PlainBar(total=2, unit="files") as bar:
        bar.set_description("copied")
        bar.update(2)
    assert capsys.readouterr().err == "steps: 3/3 it\ncopied: 2/2 files\n"
