"""Values: to bytes and back, into the arena and out of it, for the threads that need them.

Here threads wait, with a deadline. This room knows the table (`own`) and the store of the node, and
imports nothing of `submit`, `run` and `tell`.
"""
