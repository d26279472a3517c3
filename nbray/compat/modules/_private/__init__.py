"""What others import from ``ray._private``: each module has what is asked for, and no more."""
