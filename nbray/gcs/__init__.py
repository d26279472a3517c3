"""The GCS: one process that knows the nodes, jobs, actors and placement groups of a cluster.

Rooms, from the ground up; each registers its own methods and knows those before it only:

* ``storage``: tables that outlive the process;
* ``kv``: the key-value space, and the packages that are kept in it;
* ``nodes``: who is alive, and who is told of it;
* ``actors`` and ``groups``, which do not know each other;
* ``state``: the answers of the state API; ``scaling``: those that the autoscaler asks for;
* ``server``: builds them, and says in one place what ends with what.

It imports ``nbray.wire``, ``nbray.scheduling`` and ``nbray.common``, and nothing of the raylet or
the core worker; these speak to it by messages.
"""
