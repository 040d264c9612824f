"""Hosts, their worker processes, and the device slots runs and the engine lease."""
