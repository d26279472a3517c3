"""nbray beside Ray: the same work on both engines, in turns, in one run (``make bench``)."""
