"""`patina weights`: what has been trained and registered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from contracts.failures import FieldError, InvalidInput
from patina.client import Json
from patina.connect import connect
from patina.output import AsJson, facts, give, rows, short, size
from patina.times import when

app = typer.Typer(help="Registered weights: names, versions, aliases.", no_args_is_help=True)


@app.command("ls")
def ls(
    name: Annotated[str | None, typer.Argument(help="Only this name.")] = None,
    as_json: AsJson = False,
) -> None:
    """List weights, every version, newest first."""
    with connect() as client:
        found = client.all_weights() if name is None else client.weights(name)["versions"]
    columns = ("name", "version", "aliases", "base", "run", "steps", "created")
    lines = (
        (w["name"], w["version"], _aliases(w), w["base"]["name"], w["run"], w["steps"], when(w["created_at"]))
        for w in found
    )
    give(
        {"items": found}, as_json, lambda: rows(columns, lines, "No weights yet; train some with `patina runs create`.")
    )


@app.command("download")
def download(
    which: Annotated[str, typer.Argument(help="NAME, NAME@ALIAS or NAME@VERSION.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File, or folder to put it in.")] = None,
    as_json: AsJson = False,
) -> None:
    """Download a weights file (safetensors)."""
    name, _, version = which.partition("@")
    if not name:
        raise InvalidInput([FieldError(pointer="/which", message="is not NAME, NAME@ALIAS or NAME@VERSION")])
    with connect() as client:
        found = client.weights_version(name, version or "latest")
        target = output or Path(f"{name}-{found['version']}.safetensors")
        if target.is_dir():
            target = target / f"{name}-{found['version']}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        count = client.download_weights(name, str(found["version"]), target)
    answer = {**found, "file": str(target), "bytes": count}
    shown = [
        ("file", str(target)),
        ("size", size(count)),
        ("weights", f"{name}@{found['version']}"),
        ("sha256", short(found["sha256"])),
    ]
    give(answer, as_json, lambda: facts(shown))


@app.command("rm")
def rm(
    which: Annotated[str, typer.Argument(help="NAME@VERSION or NAME@ALIAS.")],
    yes: Annotated[bool, typer.Option("--yes", help="Without being asked.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove one version of weights and the aliases that mean it; pictures made with it stay."""
    name, _, version = which.partition("@")
    if not name or not version:
        raise InvalidInput([FieldError(pointer="/which", message="is not NAME@VERSION or NAME@ALIAS")])
    with connect() as client:
        found = client.weights_version(name, version)
        what = f"{name}@{found['version']}"
        if not yes:
            typer.confirm(f"Remove {what} ({size(found['bytes'])}, {_aliases(found)})?", abort=True, err=True)
        client.request("DELETE", f"/api/v1/weights/{name}/{found['version']}")
    give({"removed": found}, as_json, lambda: facts([("removed", what)]))


def _aliases(weights: Json) -> str:
    return ", ".join(f"@{alias}" for alias in weights["aliases"])
