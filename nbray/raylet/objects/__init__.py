"""Objects of this node: their table, the arena, spill files, and transfers between nodes.

May import what lies below the rooms (`nbray.raylet.process`, `nodes`) and `nbray.object_store`.
Knows nothing of workers and leases: a process is a connection with an id. `table` is pure.
"""
