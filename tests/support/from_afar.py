"""Makes `nbray.init` of tests join from afar: the suites that there are, over a tunnel.

With ``NBRAY_TEST_FROM_AFAR=1`` a cluster that a test starts is a head node with a gateway, by which
the test's process joins it. All else is as the test has it: the driver ends the node that it
started.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from pathlib import Path
from typing import Any

INSTALL = f"""
def _install():
    import sys
    sys.path.append({str(Path(__file__).parent.parent)!r})
    from support import from_afar
    sys.path.pop()
    from_afar.install()
_install()
del _install
"""
"""What a kernel runs, which leaves no name behind."""

SWITCH = "NBRAY_TEST_FROM_AFAR"
_OF_NODE = {
    "num_cpus": "CPU", "num_gpus": "GPU", "_memory": "memory",
}  # fmt: skip


def is_wanted() -> bool:
    """Whether the switch is on."""
    return os.environ.get(SWITCH) == "1"


def install() -> None:
    """Replace `init`, wherever it has been imported from."""
    import nbray.driver.driver as driver

    if hasattr(driver.init, "near"):
        return
    far = _far(driver.init)
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get("init") is driver.init and module is not driver:
            module.init = far  # type: ignore[attr-defined]
    driver.init = far


def _far(near: Any) -> Any:
    @functools.wraps(near)
    def init(address: str | None = None, **options: Any) -> Any:
        from nbray.driver.driver import current_driver
        from nbray.driver.init_options import hidden_options
        from nbray.driver.joining import cluster_to_join, named_address
        from nbray.launcher.client_port import RemoteDrivers
        from nbray.launcher.dashboard import DashboardOptions
        from nbray.launcher.described import NodeOptions
        from nbray.launcher.local import start_head

        place = named_address(address)
        known = inspect.signature(near).parameters
        if (
            current_driver() is not None
            or (place is not None and place != "local")
            or cluster_to_join(place) is not None
            or "local_mode" in options
        ):
            return near(address, **options)
        hidden = hidden_options({k: v for k, v in options.items() if k not in known})
        resources = dict(options.pop("resources", None) or {})
        for name, resource in _OF_NODE.items():
            if options.get(name) is not None:
                resources[resource] = options.pop(name)
        node = start_head(
            NodeOptions(
                resources, hidden.node_ip_address, options.pop("labels", None), hidden.variables,
                options.pop("object_store_memory", None),
                options.pop("object_spilling_directory", None),
            ),
            dashboard=DashboardOptions(
                options.get("include_dashboard"),
                options.get("dashboard_host", "127.0.0.1"),
                options.get("dashboard_port"),
            ),
            remote_drivers=RemoteDrivers(0),
        )  # fmt: skip
        import nbray.launcher.token as tokens

        load, token = tokens.load_token, node.session.token
        tokens.load_token = lambda *, create: token
        try:
            context = near(f"nbray://{node.client_server}", **options)
        except BaseException:
            node.stop()
            raise
        finally:
            tokens.load_token = load
        started = current_driver()
        assert started is not None
        started.node = node
        return context

    init.near = near  # type: ignore[attr-defined]
    return init
