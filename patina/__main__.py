"""`python -m patina` is the `patina` command."""

from __future__ import annotations

import sys

from patina.cli import main

if __name__ == "__main__":
    sys.exit(main())
