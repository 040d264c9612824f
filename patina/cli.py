"""The `patina` command: puts the verbs together and turns every failure into one panel or one document.

Loads neither torch nor a database driver; verbs that need them ask a child process (patina/child.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from contracts.failures import InvalidInput, PatinaError
from patina.commands import bases, datasets, doctor, generate, keys, runs, up, weights
from patina.output import show_failure
from patina.problems import unexpected

USAGE_CODE = 2
INTERRUPTED_CODE = 130

app = typer.Typer(
    help="Self-hosted fine-tuning of SDXL: upload, train, register, generate.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("up")(up.up)
app.command("doctor")(doctor.doctor)
app.add_typer(bases.app, name="bases")
app.add_typer(datasets.app, name="datasets")
app.add_typer(runs.app, name="runs")
app.add_typer(weights.app, name="weights")
app.command("generate")(generate.generate)
app.add_typer(keys.app, name="keys")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a failure, 2 for a command line that cannot be read."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_document = "--json" in given
    try:
        code = app(given, standalone_mode=False)
    except PatinaError as error:
        show_failure(error, as_document)
        return 1
    except typer.Abort:
        return INTERRUPTED_CODE
    except typer.TyperException as error:
        return _misused(error, as_document)
    except KeyboardInterrupt:
        return INTERRUPTED_CODE
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the user gets a reference to it
        show_failure(unexpected(error), as_document)
        return 1
    return code if isinstance(code, int) else 0


def _misused(error: typer.TyperException, as_document: bool) -> int:
    words = str(error).strip()
    if words or as_document:
        hint = "Run the command with --help to see what it takes."
        show_failure(InvalidInput([], words or "A command is missing.", hint), as_document)
    return USAGE_CODE
