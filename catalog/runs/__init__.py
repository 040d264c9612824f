"""Training runs: from a recipe to a queued job, and what the worker reports about it."""
