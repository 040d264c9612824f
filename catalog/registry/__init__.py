"""Registered weights: name, version, aliases, and the base they belong to."""
