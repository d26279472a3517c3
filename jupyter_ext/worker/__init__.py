"""What runs in a worker: a cell, its ``__main__``, what it changed, how values travel.

It imports neither IPython (but where a user's code has: `display`, `shell`) nor any room of the
notebook's side; the notebook's side imports it, since both pack and open the same parcels.
"""
