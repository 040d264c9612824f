"""`python -m sdxl describe PATH [CACHE]`: what a base is, as one JSON document; or the problem, and exit code 1.

For callers that must not load torch themselves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from contracts.failures import PatinaError
from sdxl.base import describe


def main(arguments: Sequence[str]) -> int:
    """Describe one base; the exit code."""
    path, cache = Path(arguments[1]), Path(arguments[2]) if len(arguments) > 2 else None
    try:
        document, code = describe(path, cache_dir=cache).model_dump_json(), 0
    except PatinaError as error:
        document = json.dumps({"code": str(error.code), "detail": error.message, "hint": error.hint})
        code = 1
    sys.stdout.write(document + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
