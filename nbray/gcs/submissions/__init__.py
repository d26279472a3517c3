"""Jobs that were submitted: their lives, and the rows, which are durable before they are told.

`life` is a table, `machine` applies it to rows and knows no store, `table` has the methods of the
GCS. Nothing here runs a job: the job manager (`nbray.jobs`) and its supervisors do, and ask here
whether they may.
"""
