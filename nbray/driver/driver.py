"""The driver: this program's part of a cluster, from `init` to `shutdown`."""

from __future__ import annotations

import atexit
import logging
import os
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from nbray.common.config import Config
from nbray.common.importing import current_folder_last
from nbray.common.ray_settings import ray_variables
from nbray.core_worker.current import NO_MEMBER, find_core, set_core, was_forked
from nbray.driver.init_options import (
    HiddenOptions,
    hidden_options,
    job_options,
    node_resources,
)
from nbray.driver.logging_config import LoggingConfig, as_logging_config
from nbray.exceptions import NbraySystemError

if TYPE_CHECKING:
    from nbray.client.remote import Remote
    from nbray.core_worker.core import CoreWorker
    from nbray.driver.context import NbrayContext
    from nbray.driver.job_config import JobConfig
    from nbray.launcher.local import RunningNode

_LOGGING_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NO_OPTIONS = HiddenOptions()


class Driver:
    """What `init` made: the runtime, and the node if it was started here."""

    def __init__(
        self, core: CoreWorker, node: RunningNode | None, context: NbrayContext,
        remote: Remote | None = None,
    ) -> None:  # fmt: skip
        self.core = core
        self.remote = remote
        self.node = node
        self.added_nodes: list[RunningNode] = []
        self.context = context
        self.address: str = context["address"]

    def close(self) -> None:
        """Leave the cluster; end it if it was started here, and the nodes that were added here.

        Each of these is done also if the one before is interrupted: nobody can ask for it again.
        """
        from nbray.wire.watching_messages import ProcessLeaves

        set_core(None)
        core = self.core
        core.edge.on_raylet_lost = lambda: None
        leaves = ProcessLeaves("INTENDED_USER_EXIT", "The driver left by `nbray.shutdown()`.")
        core.reactor.inbox.append(lambda: core.peers.raylet.send(leaves))
        with ExitStack() as ends:  # the last one first
            if self.node is not None:
                ends.callback(self.node.stop)
            while self.added_nodes:
                ends.callback(self.added_nodes.pop(0).stop)
            if self.remote is not None:
                ends.callback(self.remote.close)
            core.stop()


_driver: Driver | None = None


def current_driver() -> Driver | None:
    """What `init` made; None before it and in workers."""
    return _driver


def current_core() -> CoreWorker:
    """The runtime; a local cluster is started if there is none, as Ray does.

    Raises:
        NbraySystemError: this process is a fork of a driver or worker, and has not joined one.
    """
    core = find_core()
    if core is not None:
        return core
    if was_forked():
        raise NbraySystemError(NO_MEMBER)
    init()
    core = find_core()
    assert core is not None
    return core


def is_initialized() -> bool:
    """Whether this process belongs to a cluster.

    Returns:
        True after `nbray.init`, and in tasks and actors.

    Examples:
        >>> nbray.is_initialized()
        True
    """
    return find_core() is not None


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    object_store_memory: float | None = None,
    object_spilling_directory: str | None = None,
    namespace: str | None = None,
    runtime_env: dict[str, Any] | None = None,
    ignore_reinit_error: bool = False,
    labels: dict[str, str] | None = None,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    local_mode: bool = False,
    job_config: JobConfig | dict[str, Any] | None = None,
    configure_logging: bool = True,
    logging_config: LoggingConfig | None = None,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    log_to_driver: bool | None = None,
    **others: Any,
) -> NbrayContext:
    """Start a cluster on this machine, or join one that runs.

    Args:
        address: None takes ``NBRAY_ADDRESS``, joins what the command ``nbray start`` started on
            this machine, or starts a cluster; "local" starts one anyway; "auto" joins the newest
            of this user; "host:port" the one whose GCS is there; "nbray://host:10001" one of
            other machines, from afar.
        num_cpus: CPUs of the new node; the machine's by default.
        num_gpus: GPUs of the new node; those of the machine by default.
        resources: custom resources of the new node.
        object_store_memory: bytes of the new node's object store.
        object_spilling_directory: where the new node writes values that its store has no room
            for; ``NBRAY_SPILL_DIR`` or the session folder by default.
        namespace: where names of actors live; a new one by default.
        runtime_env: variables, files and packages for all tasks and actors of this program; see
            `nbray.runtime_env.RuntimeEnv`.
        ignore_reinit_error: a second `init` does nothing instead of raising.
        labels: labels of the new node.
        include_dashboard: False starts a cluster without dashboard, True insists on one.
        dashboard_host: the address on which the dashboard listens.
        dashboard_port: its port; 8265 or the next that is free by default.
        local_mode: not supported, as in Ray.
        job_config: more on this program; see `nbray.job_config.JobConfig`.
        configure_logging: False leaves the logger "nbray" of this process alone, whatever
            ``logging_level`` is.
        logging_config: the loggers of this program and its workers; see `nbray.LoggingConfig`.
        logging_level: its level; as the program has it by default.
        logging_format: of its handler, which it gets when the program has configured none.
        log_to_driver: False leaves the output of tasks and actors in their logs; None is True,
            or what the variable ``RAY_LOG_TO_DRIVER`` says (0 or 1).
        others: Ray's further arguments. ``_memory`` (the resource of that name),
            ``_node_ip_address``, ``_object_spilling_directory`` and ``_system_config`` (keys that
            nbray has, too) mean what they mean in Ray; others have no effect, or are refused.
            ``_autoscaling_config`` is nbray's own: the file of a cluster that is to grow and
            shrink.

    Returns:
        Where the cluster is: ``dashboard_url``, ``address_info``; it also reads as a mapping.

    Raises:
        RuntimeError: it was called already, or an argument is unknown.
        ConnectionError: there is no cluster at ``address``.
        ValueError: the cluster runs already, and its node was described; or an argument is
            impossible. TypeError: one has the wrong type.

    Examples:
        A cluster on this machine, which ends with this program:

        ```python
        import nbray

        context = nbray.init(num_cpus=4, object_store_memory=500 << 20)
        print(context.dashboard_url)
        ```

        What runs already is joined, and a second call with ``ignore_reinit_error`` does nothing:

        >>> nbray.init(ignore_reinit_error=True)["address"] is not None
        True
    """
    # The runtime and the launcher are half of the imports: a program that never starts has none.
    with current_folder_last():
        from nbray.common.process import allow_many_files
        from nbray.driver.joining import cluster_to_join, context_of, join, named_address
        from nbray.launcher.dashboard import DashboardOptions
        from nbray.launcher.described import NodeOptions
        from nbray.launcher.local import ClusterOptions, start_head

    global _driver
    hidden = hidden_options(others) if others else _NO_OPTIONS
    if local_mode:
        raise RuntimeError("`local_mode` is not supported: call the function itself instead.")
    if configure_logging and logging_level is not None:
        _configure_logger(logging_level, logging_format)
    log_config = as_logging_config(logging_config)
    here = find_core()
    if _driver is not None or here is not None:
        if ignore_reinit_error:
            if _driver is not None:
                return _driver.context
            assert here is not None
            return context_of(here, here.session, here.session.read_info(), shutdown)
        raise RuntimeError(
            "Maybe you called nbray.init twice by accident? This error can be suppressed by "
            "passing in 'ignore_reinit_error=True' or by calling 'nbray.shutdown()' prior to "
            "'nbray.init()'."
        )
    job = job_options(job_config, namespace, runtime_env)
    variables = {**ray_variables(), **hidden.variables}
    allow_many_files()
    address = named_address(address)
    is_far = address is not None and "://" in address
    found = None if is_far else cluster_to_join(address)
    node: RunningNode | None = None
    remote: Remote | None = None
    if is_far or found is not None:
        of_node = {
            "num_cpus and num_gpus": num_cpus if num_gpus is None else num_gpus,
            "resources": resources, "labels": labels, "object_store_memory": object_store_memory,
            "_system_config": hidden.variables or None,
            "_autoscaling_config": hidden.autoscaling_config,
        }  # fmt: skip
        _refuse(of_node, found[1]["gcs_address"] if found is not None else address)
    if found is not None:
        session, info = found
    elif is_far:
        assert address is not None
        remote = _remote(address, variables)
        session, info = remote.session, remote.info
    else:
        node = start_head(
            NodeOptions(
                node_resources(resources, num_cpus, num_gpus, hidden.memory),
                hidden.node_ip_address, labels, variables, object_store_memory,
                object_spilling_directory or hidden.object_spilling_directory,
                has_accelerators=True,
            ),
            ClusterOptions(autoscaling_config=hidden.autoscaling_config),
            dashboard=DashboardOptions(include_dashboard, dashboard_host, dashboard_port),
            meanwhile=_load_runtime,
        )  # fmt: skip
        session, info = node.session, node.session.read_info()
    try:
        _load_runtime()
        config = Config.from_env({**os.environ, **variables})
        core = join(session, info, job, _shows_output(log_to_driver), config, remote)
        try:
            core.runtime_envs.set_own(job.runtime_env)
        except BaseException:
            core.stop()
            raise
    except BaseException:
        if node is not None:
            node.stop()
        if remote is not None:
            remote.close()
        raise
    _driver = Driver(core, node, context_of(core, session, info, shutdown, remote), remote)
    set_core(core)
    log_config = log_config or job.logging
    if log_config is not None:
        core.me.job = replace(core.job, logging=log_config.encoded())
        log_config.apply()
    return _driver.context


def _load_runtime() -> None:
    with current_folder_last():
        import_module("nbray.core_worker.core")


def _refuse(of_node: dict[str, Any], address: str | None) -> None:
    """Raises ValueError if something is said of a node that is not to be started."""
    for what, given in of_node.items():
        if given is not None:
            raise ValueError(
                f"When connecting to an existing cluster, {what} must not be provided. "
                f"There is one at {address}; address='local' starts another."
            )


def _remote(address: str, variables: dict[str, str]) -> Remote:
    """The way to a cluster of which no node is here."""
    from nbray.client.remote import connect, place_of  # what few programs need
    from nbray.launcher.tls import TlsOptions
    from nbray.launcher.token import load_token

    place_of(address)  # a wrong one is said before a token is missed
    config = Config.from_env({**os.environ, **variables})
    tls = TlsOptions.from_environment()
    return connect(address, load_token(create=False), os.urandom(28), config, tls.prepare)


def _shows_output(log_to_driver: bool | None) -> bool:
    if log_to_driver is None:
        return os.environ.get("RAY_LOG_TO_DRIVER", "1").lower() not in ("0", "false")
    return bool(log_to_driver)


def _configure_logger(level: int | str, form: str | None) -> None:
    logger = logging.getLogger("nbray")
    logger.setLevel(level.upper() if isinstance(level, str) else level)  # Ray's default is "info"
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(form or _LOGGING_FORMAT))
        logger.addHandler(handler)


def shutdown(*, wait_for_processes: bool = False, _exiting_interpreter: bool = False) -> None:
    """Leave the cluster, and end it if `init` started it. Harmless when there is none.

    The processes have ended when it returns, whatever the arguments say, which are Ray's.

    Args:
        wait_for_processes: has no effect: the processes' end is always waited for.

    Examples:
        ```python
        import nbray

        nbray.init()
        nbray.shutdown()
        assert not nbray.is_initialized()
        ```
    """
    global _driver
    driver, _driver = _driver, None
    if driver is not None:
        driver.close()


def _forget_in_fork() -> None:
    """A fork of a driver is none: it neither leaves the cluster nor ends it."""
    global _driver
    _driver = None


atexit.register(shutdown)
os.register_at_fork(after_in_child=_forget_in_fork)
