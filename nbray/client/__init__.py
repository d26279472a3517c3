"""A driver that is not on a machine of the cluster: its connections run through one tunnel.

* ``tunnel``: many streams over one connection that may be lost and made again, sans I/O;
* ``carrier``, ``ends``: the tunnel on a socket of asyncio, and the local sockets at its ends;
* ``agent``: the process beside the driver, to which the core worker's connections go;
* ``gateway``: the process on the head node, which dials for its drivers and listens for them;
* ``road``, ``memory``, ``remote``: what the driver itself has of it;
* ``shortcuts``, ``handing_over``: sockets beside the tunnel that lead to one worker, at both ends.

It imports the wire, the core worker's ports and the arena. Raylet and launcher start its processes
by name.
"""
