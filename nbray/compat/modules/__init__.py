"""Modules that Ray has outside of its public API, as far as other libraries import them."""
