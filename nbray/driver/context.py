"""What `nbray.init` returns: where the cluster is."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nbray.common.software import VERSION, own_software
from nbray.wire.handshake import PROTOCOL_VERSION


@dataclass(frozen=True, repr=False)
class NbrayContext(Mapping[str, Any]):
    """The cluster that a driver is in. As a mapping, and as a context manager, like Ray's.

    Attributes:
        dashboard_url: "host:port" of the dashboard; None when there is none.
        address_info: addresses and ids by Ray's keys.
        login_link: makes a link that logs one browser in at the dashboard.
        probe_dashboard: says why the dashboard cannot be reached from here; empty when it can.
        leave: ends this program's part in the cluster.
        python_version: the driver's.
        nbray_version: the driver's.
    """

    dashboard_url: str | None
    address_info: dict[str, Any]
    login_link: Callable[[], str | None] = field(default=lambda: None, compare=False)
    probe_dashboard: Callable[[], str] = field(default=lambda: "", compare=False)
    leave: Callable[[], None] = field(default=lambda: None, compare=False)
    python_version: str = field(default_factory=platform.python_version)
    nbray_version: str = VERSION

    @property
    def ray_version(self) -> str:
        """The version of nbray, for programs that print Ray's."""
        return self.nbray_version

    @property
    def ray_commit(self) -> str:
        """What tells two builds of nbray apart, for programs that print Ray's."""
        return own_software().messages.hex()

    @property
    def protocol_version(self) -> str:
        """The version of the handshake, which Ray has for its client."""
        return str(PROTOCOL_VERSION)

    def disconnect(self) -> None:
        """Leave the cluster, as `nbray.shutdown` does."""
        self.leave()

    def __enter__(self) -> NbrayContext:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.disconnect()

    def __getitem__(self, key: str) -> Any:
        return self.address_info[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.address_info)

    def __len__(self) -> int:
        return len(self.address_info)

    def __repr__(self) -> str:
        return (
            f"NbrayContext(dashboard_url={self.dashboard_url!r}, "
            f"python_version={self.python_version!r}, nbray_version={self.nbray_version!r})"
        )

    def _repr_html_(self) -> str:
        import html  # its table of names is large, and few look

        rows = {
            "Cluster": html.escape(str(self.address_info["address"])),
            "Dashboard": "none",
            "nbray": html.escape(self.nbray_version),
            "Python": html.escape(self.python_version),
        }
        if self.dashboard_url is not None:
            link = html.escape(self.login_link() or f"http://{self.dashboard_url}/")
            shown = html.escape(self.dashboard_url)
            rows["Dashboard"] = f'<a href="{link}" target="_blank" rel="noopener">{shown}</a>'
        cells = "".join(
            f'<tr><th style="text-align:left">{name}</th>'
            f'<td style="text-align:left">{value}</td></tr>'
            for name, value in rows.items()
        )
        return f"<table>{cells}</table>"
