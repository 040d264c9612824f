"""`patina bases`: list them over HTTP, add them on the server's own machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from patina.child import ask
from patina.connect import connect
from patina.output import AsJson, facts, give, notes, rows, short
from patina.settings import environment_of, read_settings
from patina.sources import HUB_ID

app = typer.Typer(help="Base models that LoRAs are trained on and belong to.", no_args_is_help=True)

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List the bases."""
    with connect() as client:
        found = client.bases()
    columns = ("name", "status", "family", "px", "predicts", "licence", "identity")
    lines = (
        (b["name"], b["status"], b["family"], b["native_px"], b["prediction_type"], b["licence"], short(b["identity"]))
        for b in found
    )
    give({"items": found}, as_json, lambda: rows(columns, lines, "There is no base; add one with `patina bases add`."))


@app.command("add")
def add(
    source: Annotated[str, typer.Argument(help="Diffusers folder, .safetensors checkpoint, or Hugging Face hub id.")],
    name: Annotated[str, typer.Option(help="What to call it.")],
    licence: Annotated[str, typer.Option(help="Under what licence it comes, for example openrail++.")] = "",
    as_json: AsJson = False,
) -> None:
    """Add a base. A hub id is downloaded into the home; a local one stays where it is."""
    if not NAME.fullmatch(name):
        message = "use lowercase letters, digits, ., _ and -, at most 64, starting with a letter or digit"
        raise InvalidInput([FieldError(pointer="/name", message=message)])
    settings = read_settings()
    environment = environment_of(settings)
    place = Path(source).expanduser()
    if not place.exists():
        if not HUB_ID.fullmatch(source) or source.endswith(".safetensors"):
            raise PatinaError(
                FailureCode.BASE_UNREADABLE,
                f"There is no folder or file {source}.",
                "Give an SDXL diffusers folder, a .safetensors checkpoint, or a hub id such as OWNER/NAME.",
            )
        notes.print(f"Downloading {source} …", highlight=False)
        place = Path(ask("patina.hub", source, str(settings.folder / "bases" / name))["folder"])
    notes.print(f"Reading {place.name}: its identity takes a pass over the weights …", highlight=False)
    made = ask("patina.local", "add-base", name, str(place.resolve()), licence, environment=environment)
    give(made, as_json, lambda: facts(made.items()))
