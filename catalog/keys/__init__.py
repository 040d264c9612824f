"""API keys: shown once, kept as a hash."""
