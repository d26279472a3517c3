"""What others import from ``ray._common.usage``."""
