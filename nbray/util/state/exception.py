"""The exceptions of the state API, at Ray's path."""

from nbray.state.selecting import StateApiException

RayStateApiException = ServerUnavailable = StateApiException

__all__ = ["RayStateApiException", "ServerUnavailable"]
