"""Where nodes come from: one module for each kind of place, behind the Protocol of `base`.

A provider makes, lists and ends machines, and decides nothing: how many there are to be, and what
is done about one that fails, is the autoscaler's matter. `opening` finds a provider by its name, so
that one is imported only where it is used. Providers do not know each other.
"""
