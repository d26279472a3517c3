"""Workers of this node: resources, leases, the pool, actors, placement groups, memory, liveness.

May import what lies below the rooms (`nbray.raylet.process`, `nodes`, `delivery`), the policy
(`nbray.scheduling`) and runtime environments. Knows nothing of objects, and nothing of who watches:
those are given rows. `scheduler` and `resource_set` are pure.
"""
