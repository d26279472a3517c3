"""State: what a cluster is doing, as rows.

`queries` has the questions and `rows` their answers. `lists`, `details` and `summaries` ask with
Ray's names by way of `asking`: through the raylet of a driver or worker, or by `client` (gRPC: the
command, the dashboard, and programs that are no drivers). `local_state` is what this process knows
without asking anybody.

It imports the core worker, the launcher and the wire; it knows neither drivers nor calls.
"""
