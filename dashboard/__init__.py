"""The dashboard: live pages and a REST API on the head node, in a process of its own.

`gate` lets nobody in without the cluster's token, `watcher` asks the cluster and keeps its own
time series, `rest` serves JSON, `page` is the Bokeh document. Bokeh is imported at the first
look at the page, so that an unwatched dashboard stays small.
"""
