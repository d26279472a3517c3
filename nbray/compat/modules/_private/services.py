"""``ray._private.services``."""

from nbray.driver.lookup import get_node_ip_address

__all__ = ["get_node_ip_address"]
