"""The Python SDK, the `patina` command and the supervisor behind `patina up`."""
