"""Clusters on Kubernetes: `nbray up` by kubectl, and the objects of which a cluster consists.

- `cluster_file`: the keys of a file with ``provider: {type: kubernetes}``, checked.
- `pods`: what runs in a pod, and how one is described; the autoscaler's provider makes pods of it,
  too. `objects`: all other objects of a cluster.
- `kubectl`: runs it. `up`: brings a cluster up, tells how it goes, and takes it down.

The first three are pure. Which login leads to the API server is kubectl's matter.
"""
