"""`patina runs`: create, list, watch, cancel, resume, save, preview, remove."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import RenderableType

from contracts import sizes
from contracts.failures import PatinaError
from contracts.fitting import word
from contracts.run import RunStatus
from patina import choices, overrides, removing
from patina.client import Client, Json
from patina.connect import connect
from patina.follow import follow
from patina.output import AsJson, duration, facts, give, notes, rows, size
from patina.times import when

app = typer.Typer(help="Training runs.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(help="Id of the run, or `last`.")]


@app.command("create")
def create(
    dataset: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[@VERSION][=WEIGHT]",
            help="Name or id of the dataset, a version (the newest), how often its images are seen (1); for several, "
            "several times.",
        ),
    ],
    base: Annotated[str, typer.Option(help="Name of the base.")],
    recipe: Annotated[str, typer.Option(help="Name of the recipe, a file in configs/train.")],
    settings: Annotated[list[str] | None, typer.Argument(help="Settings on top of the recipe: key=value …")] = None,
    version: Annotated[int | None, typer.Option(help="Another version of the dataset.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the run.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and say what it would take.")] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory the run must fit, such as 8GB: what takes more is refused, or with "
            "--dry-run told what makes it fit."
        ),
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Queue a run: a recipe, a dataset, a base, and settings such as steps=200 lora.rank=8."""
    given = {"name": name, **choices.parse(dataset, version), "base": base, "recipe": recipe}
    request = {k: v for k, v in given.items() if v is not None} | {"overrides": overrides.parse(settings or ())}
    with connect() as client:
        if dry_run:
            plan = client.plan_run(request, memory)
            give(plan, as_json, lambda: _plan(plan))
            return
        run = client.create_run(request, memory)
        if watch_it:
            run = _followed(client, run["id"], quiet=as_json)
    give(run, as_json, lambda: _run(run))
    _fail_with_the_run(run)


@app.command("ls")
def ls(
    status: Annotated[RunStatus | None, typer.Option(help="Only those of this status.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    with connect() as client:
        found = client.runs(status)
    columns = ("id", "name", "status", "step", "dataset", "base", "created")
    lines = (
        (r["id"], r["name"], r["status"], _steps(r), _names(r), r["base"]["name"], when(r["created_at"])) for r in found
    )
    give({"items": found}, as_json, lambda: rows(columns, lines, "No runs yet; start one with `patina runs create`."))


@app.command("show")
def show(run: Which, as_json: AsJson = False) -> None:
    """Show one run."""
    with connect() as client:
        found = client.run(_id(client, run))
    give(found, as_json, lambda: _run(found))


@app.command("watch")
def watch(run: Which, as_json: AsJson = False) -> None:
    """Watch a run until it has ended; exit code 1 when it failed."""
    with connect() as client:
        found = _followed(client, _id(client, run), quiet=as_json)
    give(found, as_json, lambda: _run(found))
    _fail_with_the_run(found)


@app.command("cancel")
def cancel(run: Which, as_json: AsJson = False) -> None:
    """Ask a run to stop; what it has learned so far is not registered, but it can be resumed."""
    with connect() as client:
        found = client.ask_run(_id(client, run), "cancel")
    give(found, as_json, lambda: _run(found))


@app.command("resume")
def resume(
    run: Which,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch it until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have a run that failed or was cancelled go on from its last checkpoint."""
    with connect() as client:
        found = client.ask_run(_id(client, run), "resume")
        if watch_it:
            found = _followed(client, found["id"], quiet=as_json)
    give(found, as_json, lambda: _run(found))
    _fail_with_the_run(found)


@app.command("save")
def save(run: Which, as_json: AsJson = False) -> None:
    """Have a run that trains save a checkpoint at its next step."""
    with connect() as client:
        found = client.ask_run(_id(client, run), "save")
    give(found, as_json, lambda: _run(found))


@app.command("preview")
def preview(run: Which, as_json: AsJson = False) -> None:
    """Have a run that trains make its previews at its next step."""
    with connect() as client:
        found = client.ask_run(_id(client, run), "preview")
    give(found, as_json, lambda: _run(found))


@app.command("rm")
def rm(
    run: Which,
    keep_history: removing.KeepHistory = False,
    remove: removing.Remove = None,
    yes: removing.Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a run that has ended, with its events, previews and log; asks what shall become of its weights."""
    with connect() as client:
        found = client.run(_id(client, run))
        path, what = f"/api/v1/runs/{found['id']}", f"run {found['id']} ({found['name']})"
        removing.remove(client, path, what, removing.Said(keep_history, remove, yes, as_json))


def _id(client: Client, run: str) -> str:
    if run != "last":
        return run
    newest = client.runs()
    return str(newest[0]["id"]) if newest else run


def _followed(client: Client, run_id: str, quiet: bool) -> Json:
    """The run as it ended; whoever stops following it is told how to take it up again."""
    try:
        follow(client, run_id, quiet=quiet)
    except (KeyboardInterrupt, PatinaError):
        words = f"Run {run_id} does not end with this. Follow it with `patina runs watch {run_id}`"
        notes.print(f"{words}, or end it with `patina runs cancel {run_id}`.", highlight=False, soft_wrap=True)
        raise
    return client.run(run_id)


def _fail_with_the_run(run: Json) -> None:
    if run["status"] == "failed":
        raise typer.Exit(1)


def _steps(run: Json) -> str:
    return f"{run['step'] or 0}/{run['steps']}"


def _names(run: Json) -> str:
    return ", ".join(dict.fromkeys(one["name"] for one in run["datasets"]))


def _fed(run: Json) -> str:
    parts = (
        f"{one['name']}, version {one['version']}" + (f", weight {one['weight']:g}" if one["weight"] != 1 else "")
        for one in run["datasets"]
    )
    return "; ".join(parts)


def _run(run: Json) -> RenderableType:
    failure, outcome = run["failure"], run.get("outcome") or {}
    pairs: list[tuple[str, Any]] = [
        ("run", run["id"]),
        ("name", run["name"]),
        ("status", run["status"]),
        ("why", failure["message"] if failure else run["explanation"]),
        ("what to do", failure["hint"] if failure else None),
        ("to go on", f"patina runs resume {run['id']}" if run["status"] in ("failed", "cancelled") else None),
        ("step", _steps(run)),
        ("dataset", _fed(run)),
        ("base", run["base"]["name"]),
        ("recipe", " ".join([run["recipe"], *(f"{key}={value}" for key, value in run["overrides"].items())])),
        ("weights", run["config"]["output_name"] if run["status"] == "succeeded" else None),
        ("exports", _exports(run)),
        ("loss", _change(outcome.get("loss_first"), outcome.get("loss_last"))),
        ("held-out loss", _change(outcome.get("held_out_loss_before"), outcome.get("held_out_loss_after"))),
        ("trained in", duration(outcome["train_seconds"]) if "train_seconds" in outcome else None),
        ("W&B", run["tracking"]),
    ]
    return facts(pairs)


def _exports(run: Json) -> str | None:
    """What a full fine-tune left beside its weights, and where."""
    paths = ", ".join((run.get("outcome") or {}).get("exports") or ())
    return f"{paths} (in PATINA_HOME/runs/{run['id']} where it was trained)" if paths else None


def _change(before: float | None, after: float | None) -> str | None:
    return None if before is None or after is None else f"{before:.4f} → {after:.4f}"


def _fitting(fitting: Json | None) -> str | None:
    """What makes a run fit the memory that was asked about, as words that go on with the command."""
    if fitting is None:
        return None
    changes = [f"{key}={word(value)}" for change in fitting["changes"] for key, value in change["overrides"].items()]
    told = " ".join(changes) or "nothing that is known"
    return told if fitting["fits"] else f"not even with {told}"


def _plan(plan: Json) -> RenderableType:
    speed_s = plan["seconds_per_step"]
    buckets = ", ".join(f"{bucket}: {count:g}" for bucket, count in plan["buckets"].items())
    pairs: list[tuple[str, Any]] = [
        ("images", f"{plan['images']} and {plan['held_out_images']} held out"),
        ("held out by another dataset", plan["kept_out_images"] or None),
        ("buckets", buckets),
        ("smaller than their bucket", plan["upscaled_images"] or None),
        ("steps", f"{plan['steps']} of {plan['global_batch']} images ({plan['epochs']:g} epochs)"),
        ("trained parameters", f"{plan['trainable_parameters']:,}"),
        ("device memory", f"about {sizes.size(plan['memory_total'])}"),
        ("to fit", _fitting(plan["fitting"])),
        ("disk", f"about {size(plan['disk_bytes'])}"),
        ("time", f"about {duration(speed_s * plan['steps'])}" if speed_s else "unknown: nothing like it was run here"),
    ]
    return facts(pairs)
