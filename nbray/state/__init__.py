"""The state API: what a cluster is doing, for programs, the command and the dashboard.

`rows` are the typed rows, `queries` the questions, `client` asks the GCS by gRPC (processes
that are no drivers), `nbray.util.state` asks through the driver's raylet, with Ray's names.
"""
