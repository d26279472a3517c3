"""Owning: the table of objects, who refers to them and borrows them, where copies are, lineage.

Knows no lease and no worker: what makes a value again is said to whoever submits.
"""
