"""`Pool` at Ray's other path."""

from nbray.util.multiprocessing import AsyncResult, Pool

__all__ = ["AsyncResult", "Pool"]
