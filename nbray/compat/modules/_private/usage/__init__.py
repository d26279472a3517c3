"""What others import from ``ray._private.usage``."""
