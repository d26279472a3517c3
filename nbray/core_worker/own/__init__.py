"""Owning: the table of objects, who refers to them and borrows them, where copies are, lineage.

Pure: peers are named by ids and addresses, and messages leave by the ports that a part is given.
This room knows no lease, worker, connection, thread or clock; who makes a value again is a port.
It imports nothing of `submit`, `run` and `tell`, and of `values` how a value becomes bytes.
"""
