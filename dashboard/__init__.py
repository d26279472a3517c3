"""The pages that show a cluster live; version 0.1 has none yet."""
