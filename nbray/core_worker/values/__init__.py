"""Values: to bytes and back, into the arena and out of it, by whatever threads need them."""
