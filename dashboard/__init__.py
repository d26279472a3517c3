"""The dashboard: live pages and a REST API on the head node, in a process of its own.

`gate` lets nobody in without the cluster's token. `site` serves the pages and `live` keeps an
open one up to date by a socket; `pages` says what each shows, made of `parts`. `watcher` reads what
the GCS has kept for the graphs. `acts` is what changes
something, `rest` serves JSON and metrics. Bokeh, which makes the plots, is imported with the
first that is looked at.

It looks through `nbray.state`, and knows no other process's code.
"""
