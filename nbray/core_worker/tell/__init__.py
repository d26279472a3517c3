"""Telling: what this process has to report of its tasks, objects and metrics, to its raylet."""
