"""Decisions on the nodes of a cluster that the GCS and the raylets take alike: pure functions."""
