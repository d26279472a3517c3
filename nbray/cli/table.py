"""The commands of ``nbray``: where each is, and what it does in a line.

A command's module is imported when it is called: the help of all of them imports none.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

import click

from nbray.cli.rays_options import take_rays_options


class _Row(NamedTuple):
    home: str
    help: str


SECTIONS: dict[str, dict[str, _Row]] = {
    "A node on this machine": {
        "start": _Row("start.start", "Start a node on this machine."),
        "stop": _Row("stop.stop", "Stop the nodes of this machine that `nbray start` started."),
        "drain-node": _Row(
            "scaling.drain_node", "Have a node take no new work, hand its values on, and leave."
        ),
        "scale": _Row(
            "scaling.scale", "Have the autoscaler keep NODES nodes besides the head: 4, or 2..20."
        ),
        "get-auth-token": _Row(
            "acting.get_auth_token",
            "Print this machine's cluster token, which is a secret: "
            "whoever has it may do everything.",
        ),
        "tls": _Row("tls.tls", "Certificates for clusters whose nodes are to show some."),
    },
    "What a cluster does": {
        "status": _Row(
            "status.status",
            "Show a cluster: its nodes, what is in use, what waits and why, what failed lately.",
        ),
        "dashboard": _Row(
            "dashboard.dashboard", "Print a link that opens a cluster's dashboard in a browser."
        ),
        "list": _Row(
            "state.list_command",
            "List the tasks, actors, objects, nodes, workers, jobs, groups or events of a cluster.",
        ),
        "get": _Row(
            "state.get_command",
            "Show all that is known of one task, actor, object, node, worker or job.",
        ),
        "summary": _Row(
            "state.summary_command",
            "Count tasks by function, actors by class, or objects by the line that made them.",
        ),
        "memory": _Row(
            "state.memory",
            "Show the objects of a cluster: which process holds each, and what keeps it.",
        ),
        "timeline": _Row(
            "state.timeline",
            "Write the tasks that ran as a trace, for ui.perfetto.dev or chrome://tracing.",
        ),
        "stack": _Row(
            "stack.stack",
            "Print the call stacks of the workers and drivers of a cluster, on all nodes.",
        ),
        "debug": _Row(
            "stack.debug",
            "List the tasks that stand in a debugger, and where, as at `breakpoint()`.",
        ),
        "logs": _Row("logs.logs", "Print a log, or list those of a node."),
        "health-check": _Row(
            "acting.health_check",
            "End with 0 if the cluster answers and has a node that lives, "
            "else with 1 and the reason.",
        ),
        "cluster-dump": _Row(
            "dump.cluster_dump",
            "Put what a cluster knows and has written into one archive, "
            "as for a report of a fault.",
        ),
        "check-open-ports": _Row(
            "ports.check_open_ports",
            "List the ports on which the nodes of this machine listen, "
            "and from where they are reached.",
        ),
        "metrics": _Row(
            "metrics.metrics",
            "A Prometheus of this machine that scrapes a cluster; none is needed for the "
            "dashboard.",
        ),
        "microbenchmark": _Row(
            "microbenchmark.microbenchmark",
            "Start a cluster of its own, and measure puts, gets, tasks and calls of actors for a "
            "while.",
        ),
        "kill-actor": _Row(
            "acting.kill_actor", "End ACTOR: a name, or an id as far as it is written."
        ),
    },
    "Programs for a cluster": {
        "job": _Row("jobs.job", "Submit programs to a cluster, and follow, stop and list them."),
    },
    "Many machines": {
        "up": _Row(
            "machines.up", "Bring the cluster of FILE up, or change what differs from the file."
        ),
        "down": _Row(
            "machines.down",
            "End the cluster of FILE: its nodes on all machines, and nothing else there.",
        ),
        "exec": _Row(
            "machines.exec_command",
            "Run CMD by a shell on the head; its exit code is this command's.",
        ),
        "attach": _Row("machines.attach", "Open a shell on the head."),
        "submit": _Row(
            "machines.submit",
            "Copy SCRIPT to the head's home and run it there, by the Python that runs the node.",
        ),
        "rsync-up": _Row(
            "heads.rsync_up",
            "Copy SOURCE of this machine to TARGET on the head; the file_mounts without both.",
        ),
        "rsync-down": _Row(
            "heads.rsync_down",
            "Copy SOURCE on the head to TARGET of this machine; the file_mounts without both.",
        ),
        "monitor": _Row("heads.monitor", "Follow the logs of the head's GCS and raylet."),
        "get-head-ip": _Row("heads.get_head_ip", "Print the head's address."),
        "get-worker-ips": _Row("heads.get_worker_ips", "Print the workers' addresses, one a line."),
        "slurm": _Row("slurm.slurm", "Nodes that are jobs of Slurm."),
        "symmetric-run": _Row(
            "symmetric_run.symmetric_run",
            "Run COMMAND in a cluster of all machines that run these words.",
        ),
    },
}


def _no_usage_stats(help: str) -> click.Command:
    return click.Command(None, callback=lambda: None, help=help, hidden=True)


_WITHOUT_EFFECT = {
    "disable-usage-stats": _no_usage_stats("Nothing: nbray reports nobody's use to anybody."),
    "enable-usage-stats": _no_usage_stats("Nothing: nbray reports nobody's use to anybody."),
}
"""Commands of Ray's that are called in scripts and images, and have nothing to do here."""


class Commands(click.Group):
    """The group of `SECTIONS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as the help has them."""
        return [name for rows in SECTIONS.values() for name in rows]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        for rows in SECTIONS.values():
            if cmd_name in rows:
                module, _, attribute = rows[cmd_name].home.partition(".")
                found = getattr(import_module(f"nbray.cli.{module}"), attribute)
                assert isinstance(found, click.Command)
                take_rays_options(cmd_name, found)
                return found
        return _WITHOUT_EFFECT.get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections."""
        for section, rows in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, row.help) for name, row in rows.items()])
