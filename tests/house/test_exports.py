"""The public names are one list."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import nbray

# What programs for Ray Core use at the top level, and what nbray has besides.
OF_RAY = """
ActorID JobID NodeID ObjectID ObjectRef ObjectRefGenerator PlacementGroupID TaskID WorkerID
available_resources cancel cluster_resources exceptions get get_actor get_gpu_ids
get_runtime_context init is_initialized kill method nodes put remote shutdown timeline wait
ActorClass ActorHandle DynamicObjectRefGenerator LoggingConfig RemoteFunction UniqueID __version__
"""
# Modules that Ray has at these paths; what a program imports from them is there.
MODULES = """
from nbray.actor import ActorHandle, ActorClass, exit_actor
from nbray.remote_function import RemoteFunction
from nbray.runtime_context import RuntimeContext
from nbray.runtime_env import RuntimeEnv, RuntimeEnvConfig
from nbray.cluster_utils import AutoscalingCluster, Cluster
from nbray.autoscaler.sdk import request_resources, create_or_update_cluster, teardown_cluster
from nbray.autoscaler.sdk import run_on_cluster, rsync, get_head_node_ip, get_worker_node_ips
from nbray.cloudpickle import dumps, loads
from nbray.dag import DAGNode, InputNode, MultiOutputNode
from nbray.dag.input_node import InputNode
from nbray.dag.output_node import MultiOutputNode
from nbray.experimental.tqdm_ray import tqdm, safe_print
from nbray.exceptions import RayError, RayTaskError, RayActorError, GetTimeoutError
from nbray.util import ActorPool, inspect_serializability, list_named_actors, get_node_ip_address
from nbray.util import register_serializer, deregister_serializer, log_once
from nbray.util import enable_periodic_logging, get_node_instance_id
from nbray.util.check_serialize import FailureTuple
from nbray.util.accelerators import NVIDIA_A100, NVIDIA_TESLA_V100
from nbray.util.actor_pool import ActorPool
from nbray.util.joblib import register_nbray
from nbray.util.metrics import Counter, Gauge, Histogram
from nbray.util.multiprocessing import JoinableQueue, Pool, TimeoutError
from nbray.util.multiprocessing.pool import PoolTaskError
from nbray.util.placement_group import placement_group, remove_placement_group
from nbray.util.queue import Queue, Empty, Full
from nbray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from nbray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from nbray.util.state import StateApiClient
from nbray.util.state.api import list_cluster_events, list_runtime_envs
from nbray.util.state.common import ListApiOptions, StateResource
from nbray.util.state.exception import ServerUnavailable
from nbray.util.state import list_actors, list_nodes, list_tasks, summarize_tasks
"""


def test_every_public_name_is_there_and_none_besides() -> None:
    assert sorted(nbray.__all__) == sorted(OF_RAY.split())
    for name in nbray.__all__:
        assert getattr(nbray, name) is not None
    found = {
        name
        for name, value in vars(nbray).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    hooks = {"load_ipython_extension", "unload_ipython_extension"}  # IPython calls them
    means = {
        "annotations",
        "import_module",
        "current_folder_last",
        "Any",
        "ModuleType",
        "TYPE_CHECKING",
    }
    assert found - hooks - means <= set(nbray.__all__)


def test_what_ray_has_is_at_the_same_path() -> None:
    ran = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
