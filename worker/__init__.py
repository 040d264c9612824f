"""The processes that do the work: claim a row, do it, apply it with its fence."""
