"""Options: each declared once, with its type, default, scope and help.

`table` has the options of tasks, actors, methods, `nbray.init` and ``nbray start``; `option` says
what one is and how it is written as a word of a line; `showing` makes signatures and documents of
them. Decorators, ``.options``, the command, the magics and the documents read the table.

It imports `nbray.common` and the plain values of `nbray.scheduling`, and knows nobody who reads it.
"""
