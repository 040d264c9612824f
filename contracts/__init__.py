"""The words between processes: pydantic and the standard library, no I/O, no torch."""
