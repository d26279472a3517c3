"""What a task shows of itself: the frames in which it failed, a debugger, where its time went.

`pictures` says what a picture of a failure is, `taking` takes one in the worker, `rebuilding` makes
a traceback of it that a debugger walks. `remote_pdb` is a pdb whose keyboard is elsewhere.
`sampling` looks at what threads do, `flame` lays counted stacks out. Nothing here knows a task, a
connection or a notebook: who has these passes what is needed.
"""
