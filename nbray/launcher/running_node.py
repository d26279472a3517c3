"""A node that was started here: its processes, and where they are reached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nbray.common.process import Child
from nbray.common.session import Session

if TYPE_CHECKING:
    import psutil


@dataclass(eq=False)
class RunningNode:
    """The processes that were started, and where they are reached.

    Beside its own names it has those of Ray's nodes that programs and tests ask for.
    """

    session: Session
    node_ip: str
    gcs_address: str = ""
    raylet_socket: str = ""
    node_id: str = ""
    children: list[Child] = field(default_factory=list)
    dashboard: str = ""
    dashboard_error: str = ""
    client_server: str = ""

    def stop(self, *, keep_session: bool = False) -> None:
        """End the processes, the last started first, and delete the session folder.

        An interrupt ends the wait for one of them, and not the rest.
        """
        with ExitStack() as ends:
            if not keep_session:
                ends.callback(self.session.remove)
            for child in self.children:
                ends.callback(child.terminate)

    # --- Ray's names --------------------

    @property
    def unique_id(self) -> str:
        """The node's id."""
        return self.node_id

    @property
    def node_ip_address(self) -> str:
        """The address of the node."""
        return self.node_ip

    @property
    def address(self) -> str:
        """HOST:PORT of the cluster's GCS."""
        return self.gcs_address

    @property
    def raylet_socket_name(self) -> str:
        """Where the processes of this node reach its raylet."""
        return self.raylet_socket

    @property
    def session_name(self) -> str:
        """The name of the session folder."""
        return self.session.path.name

    @property
    def webui_url(self) -> str:
        """HOST:PORT of the dashboard; empty without one."""
        return self.dashboard

    def get_session_dir_path(self) -> str:
        """The session folder."""
        return str(self.session.path)

    def get_logs_dir_path(self) -> str:
        """The folder of the logs."""
        return str(self.session.log_path("raylet.log").parent)

    def is_head(self) -> bool:
        """Whether the GCS was started with this node."""
        return len(self.children) > 1

    def kill_raylet(self) -> None:
        """SIGKILL the raylet; the processes of its node leave with it."""
        import psutil  # which a driver does not need to start

        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.children[-1].pid)
            process.kill()
            process.wait(10)

    def kill_gcs_server(self) -> None:
        """SIGKILL the GCS of this head node. Its raylet starts another at once."""
        import psutil

        for process in list(self._gcs_processes()):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def start_gcs_server(self) -> None:
        """Nothing is left to do: the raylet has another GCS started, for which all calls wait."""

    def _gcs_processes(self) -> Iterator[psutil.Process]:
        import psutil

        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or ()
            if "nbray.gcs" in command and str(self.session.path) in command:
                yield process

    def remaining_processes_alive(self) -> bool:
        """Whether all processes that were started here live."""
        import psutil

        try:
            return all(
                psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
                for child in self.children
            )
        except psutil.NoSuchProcess:
            return False
