"""The memory: what exists and in what state. Knows nothing about HTTP, Celery or torch."""
