"""How things look: HTML and text of tables, handles, streams of tasks.

It fetches nothing and imports no other room.
"""
