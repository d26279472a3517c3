"""The pool at Ray's path."""

from nbray.util.multiprocessing import (
    AsyncResult,
    IMapIterator,
    Pool,
    PoolTaskError,
    TimeoutError,
)

__all__ = ["AsyncResult", "IMapIterator", "Pool", "PoolTaskError", "TimeoutError"]
