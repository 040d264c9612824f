"""`patina up`: becomes the supervisor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from patina.child import command
from patina.output import AsJson
from patina.settings import environment_of, read_settings


def up(
    host: Annotated[str | None, typer.Option(help="Address to bind; anything but loopback needs API keys.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind; 0 takes any free one.")] = None,
    home: Annotated[Path | None, typer.Option(help="Folder that holds everything; PATINA_HOME.")] = None,
    as_json: AsJson = False,
) -> None:
    """Start the server, the broker and the workers; Ctrl-C stops them all."""
    settings = read_settings(host=host, port=port, home=home)
    # The process is replaced rather than asked: the supervisor loads the broker's client, which no other verb needs.
    arguments = command("patina.supervise", *(("--json",) if as_json else ()))
    sys.stdout.flush()
    os.execve(arguments[0], arguments, {**os.environ, **environment_of(settings)})
