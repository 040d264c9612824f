"""`patina datasets`: create, upload, look, freeze."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.text import Text

from contracts.dataset import DEFAULT_HELD_OUT_SHARE
from contracts.failures import PatinaError
from contracts.ingest import IngestStatus
from patina import contents, sending, sources, uploading
from patina.client import Client, Json
from patina.commands import dataset_contents, dataset_reading, dataset_removal, dataset_urls, dataset_versions
from patina.connect import connect
from patina.edge import FAILURE_CODE
from patina.output import AsJson, facts, give, notes, rows, short
from patina.times import when

app = typer.Typer(help="Images and captions, and their frozen versions.", no_args_is_help=True)

SHOWN_TROUBLES = 20

Which = Annotated[str, typer.Argument(help="Name or id of the dataset.")]
HeldOut = Annotated[float, typer.Option(min=0, max=0.5, help="Share of the images kept for measuring, not trained on.")]

Yes = Annotated[bool, typer.Option("--yes", help="Freeze although something was probably not meant.")]


@app.command("create")
def create(name: Annotated[str, typer.Argument(help="Name of the dataset.")], as_json: AsJson = False) -> None:
    """Make an empty dataset."""
    with connect() as client:
        made = client.create_dataset(name)
    give(made, as_json, lambda: facts([("dataset", made["name"]), ("id", made["id"])]))


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List the datasets."""
    with connect() as client:
        found = client.datasets()
    columns = ("name", "id", "status", "images", "created")
    lines = ((d["name"], d["id"], d["status"], d["images"], when(d["created_at"])) for d in found)
    give(
        {"items": found},
        as_json,
        lambda: rows(columns, lines, "No datasets yet; `patina datasets upload DIR --name N`."),
    )


@app.command("upload")
def upload(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder of images with captions, a zip or Parquet file of one, an image, or else a data set on the"
            " Hugging Face hub: OWNER/NAME."
        ),
    ],
    name: Annotated[str, typer.Option(help="Dataset to upload to; made when it is not there.")],
    freeze: Annotated[bool, typer.Option("--freeze", help="Freeze a version when all files are read.")] = False,
    held_out_share: HeldOut = DEFAULT_HELD_OUT_SHARE,
    yes: Yes = False,
    connections: Annotated[int, typer.Option(min=1, max=32, help="Requests under way at once.")] = 4,
    as_json: AsJson = False,
) -> None:
    """Upload images and captions and wait until they are read; says what became of every file.

    What was sent before is not sent again, so that it can be run again after any interruption. Fails when everything
    was rejected.
    """
    found = sources.find(source, _say_download)
    with connect() as client:
        dataset = contents.found_or_made(client, name)
        sent = _send(client, dataset["id"], found, connections, quiet=as_json)
        ingest = dataset_reading.wait_until_read(client, dataset, quiet=as_json)
        dataset = client.dataset(dataset["id"])
        ledger = client.ledger(dataset["id"])
        answer = {
            "dataset": dataset,
            "left_out": [{"name": name, "reason": reason} for name, reason in found.left_out.items()],
            "refused": sent.refused,
            "skipped": sent.skipped,
            "ingest": ingest,
            "fates": _fates(ledger),
            "version": None,
        }
        try:
            if freeze:
                answer["version"] = client.freeze(dataset["id"], held_out_share, yes)
        except PatinaError:
            # Why it is not frozen lies in what became of the files, so that is shown first.
            if not as_json:
                give(answer, as_json, lambda: _uploaded(answer, ledger))
            raise
    give(answer, as_json, lambda: _uploaded(answer, ledger))
    none_taken = not sent.accepted and not sent.skipped
    if none_taken or contents.came_to_nothing(ledger, {name for name, _ in found.sent}):
        raise typer.Exit(FAILURE_CODE)


app.command("ledger")(dataset_contents.show_ledger)
app.command("rm")(dataset_removal.remove)
app.command("fetch")(dataset_urls.fetch)
app.command("watch")(dataset_reading.watch)
app.command("cancel")(dataset_reading.cancel)
app.add_typer(dataset_contents.captions, name="captions")
app.command("versions")(dataset_versions.list_versions)
app.command("diff")(dataset_versions.diff)
app.command("download")(dataset_versions.download)


@app.command("freeze")
def freeze_version(
    dataset: Which,
    held_out_share: HeldOut = DEFAULT_HELD_OUT_SHARE,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Freeze a version: what runs are trained on, and never changes."""
    with connect() as client:
        version = client.freeze(client.dataset(dataset)["id"], held_out_share, yes)
    give(version, as_json, lambda: facts(_version_facts(version)))


def _send(client: Client, dataset_id: str, found: uploading.Found, connections: int, quiet: bool) -> sending.Sent:
    columns = (TextColumn("uploading"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=notes, transient=True, disable=quiet) as progress:
        task = progress.add_task("", total=sum(path.stat().st_size for _, path in found.sent))
        try:
            return sending.send(client, dataset_id, found.sent, connections, lambda n: progress.advance(task, n))
        except KeyboardInterrupt:
            notes.print("Broken off; the same command again goes on from there.")
            raise


def _say_download(repository: str) -> None:
    notes.print(f"There is no folder or file {repository}: downloading it from the hub …", highlight=False)


def _fates(ledger: list[Json]) -> dict[str, int]:
    return dict(Counter(line["fate"] for line in ledger))


def _uploaded(answer: dict[str, Any], ledger: list[Json]) -> RenderableType:
    dataset, version = answer["dataset"], answer["version"]
    fates = ", ".join(f"{count} {fate}" for fate, count in sorted(answer["fates"].items()))
    pairs = [("dataset", dataset["name"]), ("images", dataset["images"]), ("files", fates)]
    if answer["ingest"]["status"] in (IngestStatus.CANCELLED, IngestStatus.FAILED):
        pairs.append(("reading", answer["ingest"]["status"]))
    if answer["skipped"]:
        pairs.append(("not sent again", f"{len(answer['skipped'])} (the dataset has them)"))
    left_out = uploading.by_reason({one["name"]: one["reason"] for one in answer["left_out"]})
    pairs += [("not sent", uploading.in_words(reason, names)) for reason, names in left_out.items()]
    parts: list[RenderableType] = [facts(pairs + (_version_facts(version) if version else []))]
    refused = [(file["name"], file["problem"]["message"]) for file in answer["refused"]]
    parts += [Text(_line(name, message), style="red") for name, message in refused]
    troubles = [line for line in ledger if line["fate"] == "rejected" or line["reason"]]
    # What was refused at the door is in the ledger, too, and told once.
    troubles = [line for line in troubles if (line["name"], line["reason"]) not in refused]
    parts += [Text(_line(t["name"], t["reason"] or t["fate"]), style="yellow") for t in troubles[:SHOWN_TROUBLES]]
    if len(troubles) > SHOWN_TROUBLES:
        parts.append(Text(f"… and {len(troubles) - SHOWN_TROUBLES} more: patina datasets ledger {dataset['name']}"))
    return Group(*parts)


def _line(name: str, words: str) -> str:
    """What is said of a file, which often begins with its name."""
    return words if words.startswith(name) else f"{name}: {words}"


def _version_facts(version: Json) -> list[tuple[str, Any]]:
    return [
        ("version", version["version"]),
        ("trained on", f"{version['train_images']} images"),
        ("held out", f"{version['held_out_images']} images"),
        ("digest", short(version["digest"])),
    ]
