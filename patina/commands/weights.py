"""`patina weights`: what has been trained and registered."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.lora import TEXT_ENCODERS, UNET
from patina.child import command
from patina.client import Json
from patina.connect import connect
from patina.output import AsJson, facts, give, rows, short, size
from patina.removing import confirm
from patina.targets import writing
from patina.times import when

Dialect = Literal["kohya", "diffusers", "peft"]

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
    dialect: Annotated[
        Dialect | None,
        typer.Option(
            "--dialect", help="The form of a LoRA; made here, as it was published if not given. peft: a folder."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a weights file (safetensors)."""
    name, _, version = which.partition("@")
    if not name:
        raise InvalidInput([FieldError(pointer="/which", message="is not NAME, NAME@ALIAS or NAME@VERSION")])
    with connect() as client:
        found = client.weights_version(name, version or "latest")
        default = f"{name}-{found['version']}{'' if dialect == 'peft' else '.safetensors'}"
        target = output or Path(default)
        if target.is_dir() and not (dialect == "peft" and _holds_adapter(target)):
            target = target / default
        if dialect == "peft" and target.exists():
            message = f"There is something at {target} already; a PEFT folder is never written over."
            raise PatinaError(FailureCode.CONFLICT, message, "Choose another name, or remove it first.")
        with writing(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if dialect is None:
            count, notes = client.download_weights(name, str(found["version"]), target), []
        else:
            with writing(target), tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as folder:
                published = Path(folder, "published.safetensors")
                count = client.download_weights(name, str(found["version"]), published)
                notes = _convert(published, target, dialect)
    answer = {**found, "file": str(target), "bytes": count, "notes": notes}
    shown = [
        ("file", str(target)),
        ("size", size(count)),
        ("weights", f"{name}@{found['version']}"),
        ("sha256", short(found["sha256"]) if dialect is None else None),
        *(("note", note) for note in notes),
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
            confirm(f"Remove {what} ({size(found['bytes'])}, {_aliases(found)})?")
        client.request("DELETE", f"/api/v1/weights/{name}/{found['version']}")
    give({"removed": found}, as_json, lambda: facts([("removed", what)]))


def _holds_adapter(folder: Path) -> bool:
    """Whether it is such a folder itself: what is asked to go there is to replace it, not to go inside."""
    return any((folder / component / "adapter_config.json").exists() for component in (UNET, *TEXT_ENCODERS))


def _convert(file: Path, target: Path, dialect: Dialect) -> list[str]:
    """Write a LoRA in another form, by a process that has torch; what other programs will misread of it."""
    over = () if dialect == "peft" else ("--force",)
    words = command("sdxl.formats", "convert", str(file), str(target), "--dialect", dialect, *over)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        if said and said[-1].startswith("ModuleNotFoundError"):
            said = [
                "Patina is installed here without what training needs.",
                "Leave out --dialect, or install `.[train]`.",
            ]
        message = said[0].removeprefix("error: ") if said else "The converter ended without a word."
        raise PatinaError(FailureCode.WEIGHTS_UNREADABLE, message, said[1] if len(said) > 1 else None)
    return [line.removeprefix("note: ") for line in done.stdout.splitlines() if line.startswith("note: ")]


def _aliases(weights: Json) -> str:
    return ", ".join(f"@{alias}" for alias in weights["aliases"])
