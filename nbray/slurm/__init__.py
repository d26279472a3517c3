"""Slurm, as a cluster meets it: inside an allocation, and as the place that gives it nodes.

- `hostlist`: ``node[01-04,7]`` in names. `step`: what Slurm's variables say of this process.
- `meeting`: the file by which the processes of one step find the first of them.
- `script`: the text of a job that is a node. `queue`: rows of squeue, and what they mean.
- `commands`: runs sbatch, squeue and scancel. `homes`: the folders of clusters below ``~/.nbray``.

All but `commands`, `meeting` and `homes` are pure. It imports `nbray.common` only. The command
(`nbray.cli`), the autoscaler's provider and the notebook stand on it.
"""
