"""Clusters of many machines out of one YAML file: `nbray up` and its kin.

The launching machine does everything by the system's ssh; hosts have no agent. What a host has got
stands on the host, in a folder for each cluster and host (`scripts.py`), so any machine with the
file can go on where another one, or an interrupted one, stopped.

- `cluster_file`: the keys of the file, checked. `mounts`: what is copied, and its hash.
- `found`: what a host answers. `plan`: the steps from what was found to what is wanted.
- `scripts`, `containers`: the texts that hosts run.
- `ssh`: runs them; `here`: on this machine. `slurm_file`: a file whose workers are jobs.
- `home`: the folder of a cluster on the launching machine.
- `provider`: where machines come from. `up`, `down`: carry a plan out. `board`: shows it live.

The first three lines are pure. The package imports `nbray.common` only; the command
(`nbray.cli.machines`) and the notebook import it.
"""
