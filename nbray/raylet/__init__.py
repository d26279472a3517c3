"""The raylet: one process per node, which serves the node's workers, objects and those who watch.

`workers` starts and leases out processes, `objects` keeps and transfers values, `watch` answers the
state API. `server` stands on top: it builds the rooms and passes each message to the one that
registered for it. The rooms do not import each other; what they share lies below them, in
`process` (a connection), `nodes` (the cluster), `delivery` and `failures`.
"""
