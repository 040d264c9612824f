"""`python -m worker`: whether the workers' settings can be used: {}, or the problem as a JSON document and exit code 1.

Asked before anything is started: a process that cannot start would be started again for ever.
"""

from __future__ import annotations

import sys

from pydantic import ValidationError

from contracts.settings import as_document, unusable
from worker.settings import WorkerSettings


def main() -> int:
    """Read the settings from the environment; the exit code."""
    try:
        WorkerSettings()
        document, code = "{}", 0
    except ValidationError as error:
        document, code = as_document(unusable(error)), 1
    sys.stdout.write(document + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
