"""What Ray has and nbray refuses by name: what it asks for would not come true here.

What comes true anyway, as ``--disable-usage-stats``, is taken and stands in the table.
"""

from __future__ import annotations

from nbray.options.option import Option, Scope

_BOTH = Scope.INIT | Scope.START

_CGROUPS = (
    "nbray reserves nothing for itself by cgroups; give tasks less than the machine has by "
    "num_cpus and memory"
)
_AGENTS = (
    "nodes have no agents, so nothing would listen on that port; those of a node are fixed by "
    "--node-manager-port, --object-manager-port, --min-worker-port and --max-worker-port"
)
_METRICS = "the dashboard has the metrics of all nodes at /metrics, and no node has a port for them"
_TEMP = (
    "set NBRAY_TMPDIR to a folder of yours instead, for this process and for all that are to find "
    "the cluster here"
)
_PLASMA = "the object store is memory without a file; object_spilling_directory is on a disk"
_NODE_NAME = "a node has the name of its host and its id; labels tell nodes apart"
_TRACING = "nbray makes no spans of OpenTelemetry; `nbray timeline` shows what ran when"
_PROXY = "a dashboard shows its own cluster and passes nothing on"

_REASONS: tuple[tuple[str, type, Scope, str], ...] = (
    ("enable_resource_isolation", bool, _BOTH, _CGROUPS),
    ("cgroup_path", str, _BOTH, _CGROUPS),
    ("system_reserved_cpu", float, _BOTH, _CGROUPS),
    ("system_reserved_memory", int, _BOTH, _CGROUPS),
    ("proxy_server_url", str, _BOTH, _PROXY),
    ("_metrics_export_port", int, Scope.INIT, _METRICS),
    ("_node_name", str, Scope.INIT, _NODE_NAME),
    ("_plasma_directory", str, Scope.INIT, _PLASMA),
    ("_temp_dir", str, Scope.INIT, _TEMP),
    ("_tracing_startup_hook", object, Scope.INIT, _TRACING),
    ("dashboard_agent_grpc_port", int, Scope.START, _AGENTS),
    ("dashboard_agent_listen_port", int, Scope.START, _AGENTS),
    ("runtime_env_agent_port", int, Scope.START, _AGENTS),
    ("metrics_export_port", int, Scope.START, _METRICS),
    ("node_name", str, Scope.START, _NODE_NAME),
    ("plasma_directory", str, Scope.START, _PLASMA),
    ("temp_dir", str, Scope.START, _TEMP),
    ("tracing_startup_hook", str, Scope.START, _TRACING),
    (
        "redis_shard_ports", str, Scope.START,
        "no Redis is started; --storage keeps the cluster's tables in one of yours",
    ),
    (
        "worker_port_list", str, Scope.START,
        "workers take ports of a range: --min-worker-port and --max-worker-port",
    ),
    (
        "include_log_monitor", bool, Scope.START,
        "a program says init(log_to_driver=False) when it wants no output of its tasks",
    ),
    (
        "no_redirect_output", bool, Scope.START,
        "what the node's processes say goes into their logs, which `nbray logs` shows",
    ),
    (
        "ray_debugger_external", bool, Scope.START,
        "the debugger of tasks is the notebook's: breakpoint() stops in the cell, %nbray debug",
    ),
)  # fmt: skip

REFUSED = tuple(
    Option(name, (kind,), _default, scope, f"refused: {reason}", has_effect=False, refusal=reason)
    for name, kind, scope, reason in _REASONS
    for _default in (True if name == "include_log_monitor" else False if kind is bool else None,)
)
"""Options that may be given only as they are by default."""
