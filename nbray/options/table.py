"""The table of all options.

Where two things have an option of one name that says different things of them, as ``num_cpus`` of
a task and of a node, it is declared twice, and no scope has both.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from nbray.options.option import (
    ADDRESS,
    AMOUNTS,
    ANY_JSON,
    FOLDER,
    FOUND_FILE,
    FOUND_FOLDER,
    LINE,
    SIZE,
    SPAN,
    WORDS,
    Option,
    Scope,
    Word,
)
from nbray.options.refused import REFUSED
from nbray.scheduling.labels import parse_node_labels
from nbray.scheduling.strategies import (
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

_TASK, _ACTOR = Scope.TASK, Scope.ACTOR
_BOTH = Scope.TASK | Scope.ACTOR
_METHOD = Scope.METHOD | Scope.CALL
_NODE = Scope.INIT | Scope.START
_PORTS = 65535
_NUMBER = (float, int)


def _max_retries() -> int:
    """The default, which Ray's variable for it changes."""
    text = os.environ.get("RAY_TASK_MAX_RETRIES", "3")
    try:
        return max(-1, int(text))
    except ValueError:
        raise ValueError(f"RAY_TASK_MAX_RETRIES is a number, not {text!r}.") from None


def _without_effect(scope: Scope, names: str, kind: type = str) -> tuple[Option, ...]:
    default = False if kind is bool else None
    return tuple(
        Option(name, (kind,), default, scope, "no effect", has_effect=False)
        for name in names.split()
    )


_CALLS = (
    Option("num_cpus", _NUMBER, None, _BOTH, "CPUs; tasks 1; actors 0, or 1 with other resources"),
    Option("num_gpus", _NUMBER, None, _BOTH, "GPUs"),
    Option("memory", _NUMBER, None, _BOTH, "bytes of memory", word=SIZE),
    Option("resources", (dict,), None, _BOTH, "custom resources by name", word=AMOUNTS),
    Option(
        "num_returns", (int, str), None, _TASK | _METHOD,
        "how many values; 'streaming' (the default of generators) or 'dynamic'",
    ),
    Option(
        "max_retries", (int,), _max_retries(), _TASK,
        "runs again after a worker died; -1: always", -1,
    ),
    Option(
        "retry_exceptions", (bool, list, tuple), False, _TASK,
        "run again after an exception, or after these",
    ),
    Option(
        "retry_exceptions", (bool, list, tuple), None, _METHOD,
        "run again after an exception, or after these",
    ),
    Option(
        "max_calls", (int,), None, _TASK, "calls after which the worker leaves; 0: never", 0
    ),
    Option(
        "_generator_backpressure_num_objects", (int,), None, _TASK | _METHOD,
        "items that a stream may be ahead of its reader",
    ),
    Option(
        "runtime_env", (dict,), None, _BOTH,
        "variables, files and packages; see nbray.runtime_env",
    ),
    Option("name", (str,), None, _BOTH, "a name to show, or to find an actor by"),
    Option("name", (str,), None, Scope.CALL, "a name to show"),
    Option("namespace", (str,), None, _ACTOR, "the namespace of an actor's name"),
    Option("lifetime", (str,), None, _ACTOR, "'detached' actors outlive their driver"),
    Option("get_if_exists", (bool,), False, _ACTOR, "use the actor of that name"),
    Option("max_restarts", (int,), 0, _ACTOR, "restarts after a crash; -1: always", -1),
    Option("max_task_retries", (int,), 0, _ACTOR, "repeats of calls after a crash", -1),
    Option(
        "max_task_retries", (int,), None, _METHOD,
        "repeats after a crash; the actor's by default", -1,
    ),
    Option("max_concurrency", (int,), 0, _ACTOR, "calls at the same time", 0),
    Option(
        "max_pending_calls", (int,), -1, _ACTOR,
        "calls without a reply that one caller may have; -1: any number", -1,
    ),
    Option(
        "concurrency_groups", (dict,), None, _ACTOR,
        "calls at the same time, by the name of the group",
    ),
    Option("concurrency_group", (str,), None, _METHOD, "one of the class's concurrency_groups"),
    Option(
        "allow_out_of_order_execution", (bool,), None, _ACTOR,
        "calls overtake others that wait for arguments; always so with async or threaded actors",
    ),
    Option(
        "scheduling_strategy",
        (
            str,
            NodeAffinitySchedulingStrategy,
            NodeLabelSchedulingStrategy,
            PlacementGroupSchedulingStrategy,
        ),
        None, _BOTH, "DEFAULT, SPREAD, or an object of util.scheduling_strategies",
    ),
    Option("placement_group", (object,), None, _BOTH, "a placement group, or 'default'"),
    Option("placement_group_bundle_index", (int,), -1, _BOTH, "which bundle; -1 for any"),
    Option(
        "placement_group_capture_child_tasks", (bool,), None, _BOTH,
        "what it submits runs in its group, too",
    ),
    Option("label_selector", (dict,), None, _BOTH, "conditions on the node's labels"),
    Option(
        "fallback_strategy", (list,), None, _BOTH,
        "other label selectors, in turn: [{'label_selector': {...}}]",
    ),
    Option("accelerator_type", (str,), None, _BOTH, "the kind of accelerator, as A100"),
    Option("object_store_memory", (int, float), None, _BOTH, "no effect", 0, has_effect=False),
    Option("enable_task_events", (bool,), True, _BOTH | _METHOD, "no effect", has_effect=False),
    Option("enable_tensor_transport", (bool,), None, _ACTOR, "no effect", has_effect=False),
    Option("tensor_transport", (object,), None, _METHOD, "no effect", has_effect=False),
    Option("_labels", (dict,), None, _BOTH | Scope.CALL, "no effect", has_effect=False),
    Option("_metadata", (dict,), None, _BOTH, "no effect", has_effect=False),
)  # fmt: skip

_NODES = (
    Option("head", (bool,), False, Scope.START, "Start a head node: a cluster begins here."),
    Option(
        "address", (str,), None, Scope.START,
        "Join the cluster whose head node is at HOST:PORT.", word=ADDRESS,
    ),
    Option(
        "address", (str,), None, Scope.INIT,
        "Join the cluster at HOST:PORT, or the newest here ('auto'); 'local' starts one. By "
        "default NBRAY_ADDRESS, what nbray start has started here, or a new one.", word=ADDRESS,
    ),
    Option(
        "port", (int,), 6379, Scope.START, "Port of a head node's GCS; 0 takes a free one.",
        0, _PORTS,
    ),
    Option(
        "node_ip_address", (str,), None, Scope.START,
        "Address to listen on. A head node: 127.0.0.1 by default. A joining node: the one from "
        "which it reaches the head.", variable="NBRAY_NODE_IP_ADDRESS",
    ),
    Option(
        "interface", (str,), None, Scope.START | Scope.SLURM,
        "Network interface to listen on, as ib0, instead of --node-ip-address.",
    ),
    Option("num_cpus", _NUMBER, None, _NODE, "CPUs of the node; the machine's by default."),
    Option("num_gpus", _NUMBER, None, _NODE, "GPUs of the node; those of the machine by default."),
    Option(
        "resources", (dict,), None, _NODE,
        "Custom resources of the node, as '{\"disk\": 2}'.", word=AMOUNTS,
    ),
    Option(
        "labels", (dict,), None, _NODE, 'Labels of the node: \'{"zone": "b"}\' or zone=b.',
        word=Word("LABELS", parse_node_labels),
    ),
    Option(
        "object_store_memory", _NUMBER, None, _NODE,
        "Size of the node's object store, as 2GB; 30% of the free memory by default.", 1,
        word=SIZE,
    ),
    Option(
        "object_spilling_directory", (str,), None, _NODE,
        "Where values go when the node's store is full; NBRAY_SPILL_DIR or the session folder by "
        "default.", word=FOLDER,
    ),
    Option(
        "storage", (str,), "sqlite", Scope.START,
        "Where a head node keeps the cluster's tables: sqlite (in its session folder), memory, or "
        "redis://HOST:PORT. With a password (redis://USER:PASSWORD@HOST) only in NBRAY_STORAGE: "
        "all users of a machine can read command lines.", variable="NBRAY_STORAGE",
    ),
    Option(
        "session", (str,), None, Scope.START,
        "Bring a head node that has crashed back: its session folder.", word=FOUND_FOLDER,
        variable="NBRAY_SESSION",
    ),
    Option(
        "include_dashboard", (bool,), None, _NODE,
        "False: no dashboard. True: fail without it. By default it is started if it can be.",
    ),
    Option(
        "dashboard_host", (str,), "127.0.0.1", _NODE,
        "Address on which a head node's dashboard listens.",
    ),
    Option(
        "dashboard_port", (int,), None, _NODE,
        "Port of the dashboard; 8265 or the next that is free by default.", 0, _PORTS,
    ),
    Option(
        "ray_client_server_port", (int,), None, Scope.START,
        "Port for drivers of other machines (nbray://HOST:PORT); 10001 or the next that is free "
        "by default.", 0, _PORTS,
    ),
    Option(
        "memory", (int,), None, Scope.START, 'Size of the resource "memory", as 8GB.', 1,
        word=SIZE,
    ),
    Option(
        "node_manager_port", (int,), None, Scope.START,
        "Port of the raylet for other raylets; any by default.", 0, _PORTS,
    ),
    Option(
        "object_manager_port", (int,), None, Scope.START,
        "Port of the raylet for objects and for workers of other nodes; any by default.",
        0, _PORTS,
    ),
    Option(
        "min_worker_port", (int,), None, Scope.START,
        "First port of workers; any by default.", 0, _PORTS,
    ),
    Option(
        "max_worker_port", (int,), None, Scope.START,
        "Last port of workers; each needs one.", 0, _PORTS,
    ),
    Option(
        "system_config", (dict,), None, Scope.START,
        "Settings of Ray's that nbray has: '{\"health_check_period_ms\": 500}'.", word=ANY_JSON,
    ),
    Option(
        "labels_file", (str,), None, Scope.START,
        "Labels of the node: a file of lines KEY: VALUE (YAML).", word=FOUND_FILE,
    ),
    Option(
        "autoscaling_config", (str,), None, Scope.START,
        "A head node: have the cluster grow and shrink with its demand, as this file says.",
        word=FOUND_FILE,
    ),
    Option("block", (bool,), False, Scope.START, "Stay, and stop the node when interrupted."),
    Option(
        "keep_session", (bool,), False, Scope.START,
        "With --block: leave the session folder of a head there at the end, for --session.",
    ),
)  # fmt: skip

_PROGRAM = (
    Option(
        "namespace", (str,), None, Scope.INIT, "Where names of actors live; a new one by default.",
    ),
    Option(
        "runtime_env", (dict,), None, Scope.INIT,
        "Variables, files and packages for all tasks and actors; see nbray.runtime_env.",
    ),
    Option(
        "ignore_reinit_error", (bool,), False, Scope.INIT,
        "A second init does nothing instead of raising.",
    ),
    Option("job_config", (object,), None, Scope.INIT, "More on this program; see JobConfig."),
    Option(
        "configure_logging", (bool,), True, Scope.INIT,
        "False leaves the logger 'nbray' of this process alone, whatever logging_level is.",
    ),
    Option(
        "logging_config", (object,), None, Scope.INIT,
        "Loggers of this program and its workers; see LoggingConfig.",
    ),
    Option("logging_level", (int, str), None, Scope.INIT, "Level of the logger 'nbray'."),
    Option(
        "logging_format", (str,), None, Scope.INIT,
        "Format of its handler, which it gets when the program has configured none.",
    ),
    Option(
        "log_to_driver", (bool,), None, Scope.INIT,
        "False leaves the output of tasks and actors in their logs.", variable="RAY_LOG_TO_DRIVER",
    ),
    Option("local_mode", (bool,), False, Scope.INIT, "Not supported, as in Ray."),
    Option("_memory", _NUMBER, None, Scope.INIT, "Size of the resource 'memory'.", word=SIZE),
    Option("_node_ip_address", (str,), None, Scope.INIT, "Address on which a new cluster listens."),
    Option(
        "_object_spilling_directory", (str,), None, Scope.INIT, "As object_spilling_directory."
    ),
    Option("_system_config", (dict,), None, Scope.INIT, "Settings of Ray's that nbray has."),
    Option(
        "_autoscaling_config", (str,), None, Scope.INIT,
        "A cluster's file: a new cluster grows and shrinks as it says.", word=FOUND_FILE,
    ),
    *_without_effect(
        Scope.INIT,
        "_driver_object_store_memory _enable_object_reconstruction _redis_password _redis_username "
        "_skip_env_hook",
    ),
)  # fmt: skip

_SLURM = (
    Option(
        "jobs", (tuple,), None, Scope.SLURM,
        "Jobs, each of them a node: 4, or 2..8 as work needs them.", word=SPAN,
    ),
    Option("partition", (str,), None, Scope.SLURM, "Partition of the jobs."),
    Option("account", (str,), None, Scope.SLURM, "Account of the jobs."),
    Option(
        "walltime", (str,), None, Scope.SLURM,
        "Time limit of a job, as 1:30:00; the partition's by default. Before it a node is drained, "
        "and replaced.",
    ),
    Option(
        "job_extra_directives", (list,), None, Scope.SLURM,
        "More options of sbatch, as '--qos=debug --exclusive'.", word=WORDS,
    ),
    Option(
        "job_directives_skip", (list,), None, Scope.SLURM,
        "Options of sbatch that are left out, as '--mem'.", word=WORDS,
    ),
    Option(
        "prologue", (list,), None, Scope.SLURM,
        "Shell lines before a node starts, as 'module load cuda'.", word=LINE,
    ),
    Option(
        "log_directory", (str,), None, Scope.SLURM,
        "Folder for what jobs write, which their hosts share; ~/.nbray/slurm/NAME/logs by default.",
    ),
    Option("python", (str,), None, Scope.SLURM, "Python on the hosts; the one here by default."),
)  # fmt: skip

_OF_RAY_START = (
    *_without_effect(
        Scope.START, "disable_usage_stats enable_object_reconstruction no_monitor verbose", bool
    ),
    *_without_effect(
        Scope.START,
        "log_color log_style redis_password redis_username",
    ),
)

OPTIONS: tuple[Option, ...] = (*_CALLS, *_NODES, *_PROGRAM, *_SLURM, *_OF_RAY_START, *REFUSED)
"""All options; those without an effect are Ray's: told of at debug level, or refused."""


@functools.cache
def options_of(scope: Scope) -> Mapping[str, Option]:
    """The options of one scope, by their names."""
    return MappingProxyType({option.name: option for option in OPTIONS if scope in option.scope})


def default_of(name: str, scope: Scope) -> Any:
    """The value of an option that nobody has given."""
    return options_of(scope)[name].default
