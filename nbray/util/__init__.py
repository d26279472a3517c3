"""Helpers beside the core API."""
