"""The verbs of the `patina` command, one file a noun."""
