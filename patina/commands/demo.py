"""`patina demo`: becomes the demo, whose drawing and judging no other verb needs to load."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from patina.child import command
from patina.output import AsJson


def demo(
    folder: Annotated[Path, typer.Option(help="Where the result goes; replaces what an earlier demo left.")] = Path(
        "demo"
    ),
    as_json: AsJson = False,
) -> None:
    """Train a LoRA on 200 Twemoji pictures and show what it changed: a few minutes on two cores."""
    arguments = command("patina.demo", "--folder", str(folder), *(("--json",) if as_json else ()))
    sys.stdout.flush()
    os.execv(arguments[0], arguments)
