"""The processes beside the head's raylet, which starts each again when it ends.

GCS, dashboard, autoscaler and the gateway of remote drivers: one module each, over `endings`. It
knows sessions and processes, and nothing of what a raylet does.
"""
