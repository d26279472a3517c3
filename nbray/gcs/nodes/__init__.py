"""Nodes: who reports, who is silent or dead, and who is told of it.

It knows storage and messages only; what ends with a node is not its business.
"""
