"""Options of ``ray start`` that scripts have and that change nothing here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nbray.common.ignoring import ignore

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS = (
    "disable-usage-stats", "enable-object-reconstruction", "enable-resource-isolation",
    "no-monitor", "no-redirect-output", "ray-debugger-external",
)  # fmt: skip
_WITH_VALUE = (
    "autoscaling-config", "cgroup-path", "dashboard-agent-grpc-port",
    "dashboard-agent-listen-port", "include-log-monitor", "log-color", "log-style",
    "metrics-export-port", "node-name", "plasma-directory", "proxy-server-url",
    "ray-client-server-port", "redis-password", "redis-shard-ports", "redis-username",
    "runtime-env-agent-port", "system-reserved-cpu", "system-reserved-memory", "temp-dir",
    "tracing-startup-hook",
)  # fmt: skip


def _ignored(_context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value:
        ignore("nbray start", (f"--{str(parameter.name).replace('_', '-')}",))


def ignored_options(command: F) -> F:
    """Have a command take Ray's options without an effect; its help does not list them."""
    for name in _FLAGS:
        command = click.option(
            f"--{name}", is_flag=True, hidden=True, expose_value=False, callback=_ignored
        )(command)
    for name in _WITH_VALUE:
        command = click.option(f"--{name}", hidden=True, expose_value=False, callback=_ignored)(
            command
        )
    return command
