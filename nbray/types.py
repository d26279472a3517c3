"""The generic type of refs for annotations, at Ray's path."""

from nbray.object_ref import ObjectRef

__all__ = ["ObjectRef"]
