"""What ``%%remote --cache`` keeps: answers of cells, known by all that they were made of.

`hashing`, `code` and `tables` make a digest of a value's content, the same in every process;
`imports` says what code says that it imports, `modules` what these are; `key` puts the parts of a
cell together and tells what changed. They are pure: values, sources and versions in, digests out.
`store` keeps answers in a folder, `cells` is the edge: it looks a cell up, keeps what it made, and
brings that back.

It imports `cell` (what a cell reads, and how its values travel), and knows neither magics nor
commands.
"""
