"""`python -m trainer`: hands the command line to cli.py. Knows nothing else."""

from __future__ import annotations

import sys

from trainer.cli import main

sys.exit(main(sys.argv[1:]))
