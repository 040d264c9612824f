"""Base models added on the server, visible to every key of the instance."""
