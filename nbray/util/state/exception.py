"""The exception of the state API, at Ray's path."""

from nbray.state.selecting import StateApiException

RayStateApiException = StateApiException

__all__ = ["RayStateApiException"]
