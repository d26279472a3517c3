"""What a person writes behind a percent sign: the magics, their options, completion.

The outermost room of a kernel: it imports all others but the server's, and none imports it.
"""
