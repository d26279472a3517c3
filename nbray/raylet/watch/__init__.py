"""What a node reports of itself: its load, processes, tasks, objects, metrics and logs.

May import what lies below the rooms (`nbray.raylet.process`, `delivery`). Reads rows and counts
that the server hands in, and decides nothing: a node that nobody watches runs as well.
"""
