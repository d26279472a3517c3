"""The key-value space, and the packages of runtime environments, which are kept in it.

It knows storage and messages only.
"""
