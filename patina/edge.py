"""The edge of every command: failures become one panel or one document, and an exit code.

Knows nothing about which commands there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import typer

from contracts.failures import InvalidInput, PatinaError
from patina.output import show_failure
from patina.problems import unexpected

FAILURE_CODE = 1
USAGE_CODE = 2
INTERRUPTED_CODE = 130


def run(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run one command line; 0, 1 for a failure, 2 for a command line that cannot be read, 130 when interrupted."""
    as_document = "--json" in arguments
    try:
        code = app(list(arguments), standalone_mode=False)
    except PatinaError as error:
        show_failure(error, as_document)
        return FAILURE_CODE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED_CODE
    except typer.TyperException as error:
        return _misused(error, as_document)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the user gets a reference to it
        show_failure(unexpected(error), as_document)
        return FAILURE_CODE
    return code if isinstance(code, int) else 0


def _misused(error: typer.TyperException, as_document: bool) -> int:
    words = str(error).strip()
    if words or as_document:  # without words the help has been printed already
        hint = "Run the command with --help to see what it takes."
        show_failure(InvalidInput([], words or "A command is missing.", hint), as_document)
    return USAGE_CODE
