"""`patina datasets ledger` and `patina datasets captions`: what is in a dataset, and changing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from contracts.dataset import Fate, Split
from contracts.layouts import FileKind
from patina import contents
from patina.client import Json
from patina.connect import connect
from patina.output import AsJson, clipped, facts, give, rows, short, size

captions = typer.Typer(help="The captions of a dataset, and its images.", no_args_is_help=True)

SHOWN_CHANGES = 20

Which = Annotated[str, typer.Argument(help="Name or id of the dataset.")]
One = Annotated[str, typer.Argument(help="File name of the image, or the beginning of its identity.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would change.")]


def show_ledger(
    dataset: Which,
    fate: Annotated[Fate | None, typer.Option(help="Only files that met this fate.")] = None,
    resolution: Annotated[int | None, typer.Option(min=64, max=4096, help="Say the bucket at this resolution.")] = None,
    base: Annotated[str | None, typer.Option(help="Say the bucket of a run on this base.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write all of it to this file instead.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the fate of every file ever offered, and why."""
    wanted = {"fate": fate, "resolution": resolution, "base": base}
    with connect() as client:
        if csv is not None:
            written = contents.save_ledger(client, dataset, csv.expanduser(), wanted)
            told = {"file": str(csv), "bytes": written}
            give(told, as_json, lambda: facts([("file", csv), ("size", size(written))]))
            return
        found = contents.ledger(client, dataset, wanted)
        tally = contents.tally(client, dataset)
    give({"items": found, "summary": tally}, as_json, lambda: _ledger(found, tally, bool(resolution or base)))


@captions.command("ls")
def list_captions(
    dataset: Which,
    removed: Annotated[bool, typer.Option("--removed", help="The images taken out instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the images with the caption each has now."""
    with connect() as client:
        found, _ = contents.images(client, dataset, removed=removed)
    lines = ((one["name"], short(one["image"]), one["source"], clipped(one["caption"])) for one in found)
    give({"items": found}, as_json, lambda: rows(("image", "identity", "from", "caption"), lines, "No images."))


@captions.command("set")
def set_caption(
    dataset: Which,
    image: One,
    caption: Annotated[str | None, typer.Argument(help="The caption; left out, the files' own holds again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one image's caption."""
    _change(dataset, image, {"caption": caption}, as_json)


@captions.command("remove")
def remove(dataset: Which, image: One, as_json: AsJson = False) -> None:
    """Take an image out of the dataset; frozen versions keep it."""
    _change(dataset, image, {"removed": True}, as_json)


@captions.command("restore")
def restore(dataset: Which, image: One, as_json: AsJson = False) -> None:
    """Put an image back that was taken out."""
    _change(dataset, image, {"removed": False}, as_json, removed=True)


@captions.command("mark")
def mark(
    dataset: Which,
    image: One,
    split: Annotated[Split | None, typer.Argument(help="Left out, its content hash chooses again.")] = None,
    as_json: AsJson = False,
) -> None:
    """Keep an image in the training or the held-out split of every later version."""
    _change(dataset, image, {"split": split}, as_json)


@captions.command("replace")
def replace(
    dataset: Which,
    find: Annotated[str, typer.Argument(help="What to find.")],
    by: Annotated[str, typer.Argument(metavar="REPLACE", help=r"What to put there; \1 is a pattern's first group.")],
    regex: Annotated[bool, typer.Option("--regex", help="FIND is an RE2 pattern.")] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Find and replace in every caption."""
    _edit(dataset, {"action": "replace", "find": find, "replace": by, "regex": regex}, dry_run, as_json)


@captions.command("prefix")
def prefix(dataset: Which, text: str, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Put a text in front of every caption, as it is."""
    _edit(dataset, {"action": "prefix", "text": text}, dry_run, as_json)


@captions.command("suffix")
def suffix(dataset: Which, text: str, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Put a text behind every caption, as it is."""
    _edit(dataset, {"action": "suffix", "text": text}, dry_run, as_json)


@captions.command("trigger")
def trigger(dataset: Which, trigger_word: str, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Put the trigger word in front of every caption that does not contain it."""
    _edit(dataset, {"action": "add_trigger_word", "trigger_word": trigger_word}, dry_run, as_json)


@captions.command("undo")
def undo(dataset: Which, as_json: AsJson = False) -> None:
    """Take the last edit of captions back."""
    with connect() as client:
        edited = contents.undo(client, dataset)
    give(edited, as_json, lambda: _edited(edited))


def _change(dataset: str, image: str, change: dict[str, Any], as_json: bool, removed: bool = False) -> None:
    with connect() as client:
        changed = contents.change_image(client, dataset, image, change, removed=removed)
    pairs = [("image", changed["name"]), ("caption", changed["caption"]), ("from", changed["source"])]
    state = "taken out" if changed["removed"] else "in the dataset"
    give(changed, as_json, lambda: facts([*pairs, ("state", state), ("split", changed["split"])]))


def _edit(dataset: str, edit: dict[str, Any], dry_run: bool, as_json: bool) -> None:
    with connect() as client:
        edited = contents.edit_captions(client, dataset, edit, dry_run=dry_run)
    give(edited, as_json, lambda: _edited(edited))


def _edited(edited: Json) -> RenderableType:
    words = "would change" if edited["dry_run"] else "changed"
    shown = edited["changes"][:SHOWN_CHANGES]
    lines = ((one["name"], clipped(one["before"]), clipped(one["after"])) for one in shown)
    more = edited["changed"] - SHOWN_CHANGES
    parts: list[RenderableType] = [rows(("image", "before", "after"), lines, "No caption changes.")]
    if more > 0:
        parts.append(Text(f"… and {more} more"))
    parts.append(facts([(words, edited["changed"]), ("as before", edited["unchanged"])]))
    return Group(*parts)


def _ledger(found: list[Json], tally: Json, placed: bool) -> RenderableType:
    columns = ["file", "fate", "tokens", "reason", *(["bucket", "upscaling"] if placed else [])]
    fates = ", ".join(f"{tally[fate]} {fate}" for fate in Fate if tally[fate])
    names = {row["image"]: row["name"] for row in found if row["kind"] == FileKind.IMAGE and row["image"]}
    lines = (_line(row, names) for row in found)
    parts: list[RenderableType] = [rows(columns, lines, "No such file was offered yet.")]
    parts.append(facts([("offered", f"{tally['offered']}: {fates}"), ("images", tally["images"])]))
    parts += [Text(f"{doubt['message']}: {', '.join(doubt['names'])}", style="yellow") for doubt in tally["warnings"]]
    return Group(*parts)


def _line(row: Json, names: dict[str, str]) -> tuple[Any, ...]:
    said = [row["reason"]]
    if row["cut_off"]:
        said.append(f"not read: {clipped(row['cut_off'])}")
    if row["near_image"]:
        said.append(f"looks like {names.get(row['near_image']) or short(row['near_image'])}")
    placed = row["placement"]
    where = (placed["bucket"], placed["upscaling"]) if placed else ()
    return row["name"], row["fate"], row["tokens"], "; ".join(word for word in said if word), *where
