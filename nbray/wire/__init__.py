"""The protocol between processes: messages, and the connections that carry them.

* ``messages``, ``gcs_messages``, ... and ``records``: what is said, typed, by conversation;
* ``frames``, ``handshake``, ``link``: bytes to messages, the proof of the token, and exactly once
  over several sockets; pure: no socket, no clock;
* ``waiting``, ``reactor``, ``transport``, ``connection``, ``listener``, ``connections``: a driver
  or worker, whose waiting thread reads the sockets itself; each knows those before it only;
* ``tls``, ``aio_tls``: TLS under them, when a node has it;
* ``aio``, ``bulk``: the same links in a raylet, which runs on asyncio;
* ``near_calls``: calls between the GCS and the raylets of its machine;
* ``grpc_service``, ``credentials``, ``identity``, ``certificates``: the conversations with the GCS,
  and who is let in.

It imports ``nbray.common``, and nothing of the processes.
"""
