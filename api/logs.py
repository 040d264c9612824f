"""Where the API's own words go: one line each on stderr; uvicorn writes its access log beside them.

Traces are plain text: a renderer that shows local variables would write keys and prompts into the log.
"""

from __future__ import annotations

import logging
import sys

import structlog


def configure() -> None:
    """Send structlog's entries to stderr; called once by the process's entry point."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
