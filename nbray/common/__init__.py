"""Ids, resources, configuration, sessions and processes: what every part rests on."""
