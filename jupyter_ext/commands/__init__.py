"""The subcommands of ``%nbray``: one module for each group, `table` has all of them.

A command takes the notebook's `Workspace` and its parsed words, and returns what is displayed. It
imports `cell`, `output`, `pictures`, `widgets` and the engine's port; it does not know the magics.
"""
