"""`as_completed` and `map_unordered` at Ray's path."""

from nbray.util.iteration import as_completed, map_unordered

__all__ = ["as_completed", "map_unordered"]
