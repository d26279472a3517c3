"""Telling: what this process has to report of its tasks, objects and metrics, to its raylet.

It reads what others keep and decides nothing; nothing here is on the way of a task but a look-up
and a comparison.
"""
