"""The HTTP process: routes, schemas, who may ask, errors and event streams. Never loads torch."""
