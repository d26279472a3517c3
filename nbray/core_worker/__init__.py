"""What a driver and a worker share: submit, execute, own, count references, retry."""
