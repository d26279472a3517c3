"""What a remote driver's own sockets are called, in its folder."""

AGENT_SOCKET = "agent"
DRIVER_SOCKET = "driver"
