"""The raylet: a node's scheduler, worker pool and object store."""
