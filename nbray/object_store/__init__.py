"""The node's arena of shared memory: allocator, mapping and the table of what lies in it."""
