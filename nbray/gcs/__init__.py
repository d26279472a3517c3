"""The global control service: tables of nodes, jobs and actors, and who is alive."""
