"""The `patina` command: puts the verbs together.

Loads neither torch nor a database driver; verbs that need such things ask a child process (patina/child.py) or
become another module (`up`, `demo`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from patina.commands import bases, datasets, demo, doctor, generate, keys, runs, storage, up, weights
from patina.edge import run

app = typer.Typer(
    help="Self-hosted fine-tuning of SDXL: upload, train, register, generate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("demo")(demo.demo)
app.command("doctor")(doctor.doctor)
app.add_typer(bases.app, name="bases")
app.add_typer(datasets.app, name="datasets")
app.add_typer(runs.app, name="runs")
app.add_typer(weights.app, name="weights")
app.command("generate")(generate.generate)
app.command("df")(storage.df)
app.add_typer(keys.app, name="keys")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    return run(app, sys.argv[1:] if arguments is None else arguments)
