"""Placement groups: reserved in two phases, rescheduled, removed.

`machine` decides and is pure; `table` is its one edge, with clocks, messages and the store. It
knows nothing of actors but the ids of those that make groups.
"""
