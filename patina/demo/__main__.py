"""`python -m patina.demo` is `patina demo`."""

from __future__ import annotations

import sys

import typer

from patina.demo.command import demo
from patina.edge import run

app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
app.command()(demo)

if __name__ == "__main__":
    sys.exit(run(app, sys.argv[1:]))
