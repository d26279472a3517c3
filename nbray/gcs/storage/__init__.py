"""Where the GCS keeps its tables: in memory, in SQLite, in Redis.

Use: one `Store` for the process, one `Table` for each kind of row. ``put`` and ``delete`` return
at once; ``await store.durable()`` returns when all that was written before it is safe, and is to
be awaited before anybody outside hears of the change.

It knows bytes and rows only, and nothing of what they mean.
"""

from nbray.gcs.storage.backend import StorageError
from nbray.gcs.storage.opening import open_store
from nbray.gcs.storage.store import Store
from nbray.gcs.storage.table import Table

__all__ = ["StorageError", "Store", "Table", "open_store"]
