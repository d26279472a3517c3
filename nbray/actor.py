"""Actor classes, handles and methods, at Ray's path."""

from nbray.calls.actor import ActorClass, ActorClassInheritanceException, exit_actor
from nbray.calls.actor_methods import (
    method,
)
from nbray.calls.handles import ActorHandle, ActorMethod

ActorProxy = ActorHandle  # Ray's name of a handle in annotations

__all__ = [
    "ActorClass",
    "ActorClassInheritanceException",
    "ActorHandle",
    "ActorMethod",
    "ActorProxy",
    "exit_actor",
    "method",
]
