"""The engine: one base, many adapters, one batching loop. A library; knows no queue, no database, no HTTP."""
