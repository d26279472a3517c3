"""Calls: what ``@nbray.remote`` makes, and how a call becomes a task or an actor.

Here live remote functions, actor classes, handles and their methods, their options (one table,
`options`), the check of arguments against signatures, the pickles of functions, placement groups
and scheduling strategies, and the public functions over them (`api`).

It imports `nbray.driver`, `nbray.state`, `nbray.dag` and the core worker, and never a face
(`nbray.util`, `nbray.cli`, `nbray.compat`).
"""
