"""Pickling: what cloudpickle leaves out, and which part of a value cannot be pickled.

It imports nothing of nbray: `nbray.cloudpickle` and the core worker rest on it.
"""
