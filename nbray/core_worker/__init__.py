"""What a driver and a worker share: submit, execute, own, count references, retry.

`core` builds the parts, `edge` joins them to connections, `ports` says what a part may ask of what
stands around it. The rooms: `submit` and `own` decide, `values` has the bytes, `run` is a worker's
life, `tell` reports. No part takes the whole process.
"""
