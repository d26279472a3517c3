"""The configuration: one typed class, each field overridden by ``NBRAY_<FIELD>``."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Config:
    """Every number that a user may want to change.

    Attributes:
        max_inline_bytes: values up to this size travel in messages; larger ones in the arena.
        max_inline_arguments_bytes: so much of a task's arguments, or of the values that it returns,
            travels in one message; the rest goes to the arena, or is asked for.
        max_frame_bytes: the longest frame that is accepted.
        handshake_timeout_s: a peer that has not authenticated by then is disconnected.
        peer_patience_s: how long a process that lives may be out of reach of another that talks
            to it before the connection between them is given up.
        raylet_report_period_s: how often a raylet reports to the GCS.
        health_check_period_s: how often the GCS asks a raylet that has not reported for so long.
        health_check_timeout_s: how long it waits for the answer.
        health_check_failure_threshold: a raylet that did not answer so many times in a row is
            dead. One whose process has ended is dead at once.
        gcs_rpc_server_reconnect_timeout_s: calls wait for a GCS that is away for so long; then
            they fail, and raylets leave.
        max_lineage_bytes: finished tasks that a process keeps, to make lost values again.
        max_lineage_value_bytes: values that a process keeps for them alone; 0: as much as its
            node's object store has.
        lease_idle_s: how long a submitter keeps an idle worker.
        lease_share_s: how long one keeps a worker that it has work for while others wait.
        lease_silence_s: a worker that others wait for and that its submitter leaves idle for so
            long is taken from it: its process stands still.
        start_timeout_s: a process of the cluster must be ready by then.
        worker_register_timeout_s: a worker that is not ready so long after it was ordered is ended,
            and so is a template that has not forked it.
        worker_start_timeout_s: when no worker could be started for so long, whoever waits for one
            hears why.
        store_full_wait_s: how long a `put` waits for room when the disk has none either.
        store_to_disk_wait_s: a store of which nothing can go makes a `put` write into a file when
            nothing has changed for so long.
        object_spilling_threshold: the part of the object store above which values go to disk.
        spill_file_bytes: values are written to disk together, in files of about this size.
        spill_retry_s: how long a disk that refused a file is left alone.
        local_fs_capacity_threshold: no value goes to a disk that is fuller than this part.
        store_prefault_bytes: so much of the store gets its memory soon after the start.
        put_room_bytes: how much of the store a process that puts many values takes at once.
        put_room_idle_s: room so taken is given back when it is not used for so long.
        pull_chunk_bytes: objects travel between nodes in parts of this size.
        pull_chunks_in_flight: how many parts of an object are asked for at once.
        share_machine_memory: nodes of one machine copy objects out of each other's memory; 0: all
            objects go by sockets.
        pull_timeout_s: a node that sends nothing of an object for so long is out of reach: the
            next that has it is asked.
        worker_death_wait_s: how long the tasks of a dead worker wait for the cause.
        graceful_exit_s: how long a worker that is to leave may run what its user wants run then.
        memory_usage_threshold: the memory monitor ends workers above this part of the memory.
        memory_monitor_refresh_ms: how often it looks, up to four times as rarely while nobody could
            fill the memory sooner; 0 switches it off.
        node_memory_limit_bytes: what a node's processes may use together beside the store;
            0: what the machine or the cgroup has.
        task_oom_retries: how often a task is run again that was ended for its memory; -1: always.
        task_oom_retry_delay_s: how long it waits at first; twice as long each time.
        output_batch_s: how long a worker collects output before it sends it to the driver.
        output_batch_lines: lines of output that a worker sends at once; more are counted.
        output_batch_bytes: characters of output that a worker sends at once.
        task_events_per_s: so many short tasks a worker tells of in a second; more are counted.
        task_events_kept: so many tasks a node remembers that failed, that ran for 10 ms or longer,
            and that were shorter; of each.
        failure_bytes: what a notebook is told of the values in the frames of a failed task, for its
            debugger; in all.
        failure_value_bytes: so large is a value at most that is copied for that.
        failures_per_cell: so many failures of a cell a worker tells of in this way.
        debug_wait_s: how long a task waits in its debugger for the next command.
        rotation_max_bytes: a log has so many bytes, and so has each older piece of it that is kept
            beside it; 0: logs have no bound.
        rotation_backup_count: how many such pieces are kept.
        ended_worker_logs_kept: so many workers that have ended leave their logs.
        ended_worker_logs_bytes: what these may have together.
        ended_job_logs_kept: so many submitted jobs that have ended leave their logs on a node.
        ended_job_logs_bytes: what these may have together.
        package_kept_s: how long packages of runtime environments stay, in the GCS and unpacked on
            nodes, that no job or actor needs any more.
        unused_packages_bytes: what they may have together, beside the newest.
        job_start_timeout_s: a submitted job that names no resources fails when it has not begun so
            long after its turn came; one that names some waits for them.
        job_manager_idle_s: the job manager leaves when there have been no jobs for so long.
        node_manager_port: a raylet's port for raylets, the GCS and commands; 0: any.
        object_manager_port: a raylet's port for objects and for workers of other nodes; 0: any.
        min_worker_port: workers and drivers listen on ports from this one on; 0: any.
        max_worker_port: the last of them; each needs one.
        autoscaler_update_interval_s: how often the autoscaler looks at the cluster.
        autoscaler_start_timeout_s: a machine whose node has not joined for so long is given back.
        client_reconnect_grace_period: so many seconds a remote driver may be out of reach; then it
            is dead, and its job ends.
        client_shortcuts: so many connections of its own to workers of the head node a remote driver
            may have beside its tunnel; 0: all goes through that.
        client_gateway_idle_s: the gateway of remote drivers leaves when none was there for so long;
            the next one starts it again.
        record_ref_creation_sites: 1: note the line that made each ref, for `list_objects`.
    """

    max_inline_bytes: int = 100 * 1024
    max_inline_arguments_bytes: int = 10 << 20
    max_frame_bytes: int = 128 << 20
    handshake_timeout_s: float = 5.0
    peer_patience_s: float = 60.0
    raylet_report_period_s: float = 0.5
    health_check_period_s: float = 3.0
    health_check_timeout_s: float = 10.0
    health_check_failure_threshold: int = 5
    gcs_rpc_server_reconnect_timeout_s: float = 60.0
    max_lineage_bytes: int = 1 << 30
    max_lineage_value_bytes: int = 0
    lease_idle_s: float = 0.2
    lease_share_s: float = 0.1
    lease_silence_s: float = 2.0
    start_timeout_s: float = 20.0
    worker_register_timeout_s: float = 60.0
    worker_start_timeout_s: float = 30.0
    store_full_wait_s: float = 10.0
    store_to_disk_wait_s: float = 0.5
    object_spilling_threshold: float = 0.8
    spill_file_bytes: int = 100 << 20
    spill_retry_s: float = 1.0
    local_fs_capacity_threshold: float = 0.95
    store_prefault_bytes: int = 256 << 20
    put_room_bytes: int = 16 << 20
    put_room_idle_s: float = 1.0
    pull_chunk_bytes: int = 4 << 20
    pull_chunks_in_flight: int = 4
    share_machine_memory: int = 1
    pull_timeout_s: float = 30.0
    worker_death_wait_s: float = 2.0
    graceful_exit_s: float = 30.0
    memory_usage_threshold: float = 0.95
    memory_monitor_refresh_ms: int = 250
    node_memory_limit_bytes: int = 0
    task_oom_retries: int = -1
    task_oom_retry_delay_s: float = 1.0
    output_batch_s: float = 0.1
    output_batch_lines: int = 1000
    output_batch_bytes: int = 256 * 1024
    task_events_per_s: int = 1000
    task_events_kept: int = 10_000
    failure_bytes: int = 1 << 20
    failure_value_bytes: int = 64 * 1024
    failures_per_cell: int = 10
    debug_wait_s: float = 3600.0
    rotation_max_bytes: int = 16 << 20
    rotation_backup_count: int = 2
    ended_worker_logs_kept: int = 1000
    ended_worker_logs_bytes: int = 1 << 30
    ended_job_logs_kept: int = 1000
    ended_job_logs_bytes: int = 1 << 30
    package_kept_s: float = 60.0
    unused_packages_bytes: int = 64 << 20
    job_start_timeout_s: float = 900.0
    job_manager_idle_s: float = 60.0
    node_manager_port: int = 0
    object_manager_port: int = 0
    min_worker_port: int = 0
    max_worker_port: int = 0
    autoscaler_update_interval_s: float = 1.0
    autoscaler_start_timeout_s: float = 900.0
    client_reconnect_grace_period: float = 600.0
    client_shortcuts: int = 256
    client_gateway_idle_s: float = 60.0
    record_ref_creation_sites: int = 0

    @classmethod
    def from_env(cls, variables: Mapping[str, str] = os.environ) -> Config:
        """The defaults, overridden by the environment.

        Raises:
            ValueError: a variable is not a number.
        """
        known = _variables()
        values = {
            known[name][0]: known[name][1](variables[name]) for name in variables if name in known
        }
        return cls(**values)  # type: ignore[arg-type]


@functools.cache
def _variables() -> dict[str, tuple[str, type[int] | type[float]]]:
    """The field, and what its values are, of each variable of the environment."""
    return {
        f"NBRAY_{field.name.upper()}": (field.name, float if field.type == "float" else int)
        for field in fields(Config)
    }
