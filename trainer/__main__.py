"""`python -m trainer`: hands the command line to cli.py. Knows nothing else."""

from __future__ import annotations

import sys

from trainer.starting import ending_at_once

with ending_at_once(sys.argv[1:]):
    from trainer.cli import main

sys.exit(main(sys.argv[1:]))
