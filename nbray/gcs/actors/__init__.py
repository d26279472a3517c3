"""Actors: registered, placed, restarted, found by name, ended.

It asks others by callables and ports: nodes for rows and clients, the server for what ends with
what. It knows nothing of placement groups but their ids.
"""
