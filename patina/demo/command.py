"""`patina demo`: upload → train → register → generate on a server of its own, with pictures at the end."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from contracts.failures import FailureCode, PatinaError
from patina import uploading
from patina.client import Client, Json
from patina.demo.drawing import draw_grid, draw_loss
from patina.demo.judge import StyleJudge
from patina.demo.measure import HeldOutEmoji, load_held_out, measure, read_pictures
from patina.demo.server import server
from patina.follow import follow
from patina.home import holder
from patina.output import AsJson, console, duration, facts, give

ROOT = Path(__file__).resolve().parents[2]
TRAINING_SET = ROOT / "datasets" / "twemoji-style"
JUDGE_FOLDER = ROOT / "datasets" / "emoji-judge"
BASE, RECIPE, DATASET = "emoji-xl", "demo", "twemoji-style"
SAMPLING: Json = {"base": BASE, "steps": 25, "guidance_scale": 1.4}
FIRST_SEED = 1000
POLL_S = 0.25


def demo(
    folder: Annotated[
        Path, typer.Option(help="Where the result goes; what an earlier demo left there is replaced.")
    ] = Path("demo"),
    as_json: AsJson = False,
) -> None:
    """Train a LoRA on 200 Twemoji pictures and show what it changed: a few minutes on two cores."""
    started = time.monotonic()
    home = folder / "home"
    if running := holder(home):
        raise PatinaError(
            FailureCode.ALREADY_RUNNING,
            f"Another demo runs in {folder} (process {running.pid}).",
            "Wait for its end, or choose another folder with --folder.",
        )
    shutil.rmtree(home, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    held_out = load_held_out(JUDGE_FOLDER)
    with server(home.resolve()) as client:
        run = _train(client, quiet=as_json)
        version = client.weights_version(run["config"]["output_name"], "latest")
        choice = [{"weights": f"{version['name']}@{version['version']}"}]
        generating = time.monotonic()
        pictures = {
            "base": _generate(client, held_out, [], folder / "base", quiet=as_json),
            "LoRA": _generate(client, held_out, choice, folder / "lora", quiet=as_json),
        }
        generate_seconds = time.monotonic() - generating
        weights_file = folder / f"{version['name']}.safetensors"
        client.download_weights(version["name"], str(version["version"]), weights_file)
        metrics = client.run_metrics(run["id"])
    made = {name: read_pictures(files) for name, files in pictures.items()}
    draw_grid(held_out.names, {**made, "Twemoji": held_out.twemoji, "Noto": held_out.noto}, folder / "grid.png")
    held_out_losses = {point["step"]: point["loss"] for point in metrics["held_out"]}
    steps, losses = zip(*((point["step"], point["loss"]) for point in metrics["steps"]), strict=True)
    draw_loss(steps, losses, held_out_losses, folder / "loss.png")
    judged = measure(StyleJudge.load(JUDGE_FOLDER / "judge.json"), held_out, made["base"], made["LoRA"])
    summary = {
        **_told_by_the_run(run, version),
        **judged,
        "guidance_scale": SAMPLING["guidance_scale"],
        "wandb_dir": run["tracking"],
        "generate_seconds": round(generate_seconds, 1),
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    give(summary, as_json, lambda: facts(_shown(summary, folder, time.monotonic() - started)))


def _train(client: Client, quiet: bool) -> Json:
    dataset = client.create_dataset(DATASET)
    with _progress("uploading", quiet) as progress:
        found = uploading.find(TRAINING_SET).sent
        task = progress.add_task("", total=len(found))
        for portion in uploading.portions(found):
            client.upload(dataset["id"], portion)
            progress.advance(task, len(portion))
    while client.dataset(dataset["id"])["status"] == "ingesting":
        time.sleep(POLL_S)
    client.freeze(dataset["id"], held_out_share=0.05)
    run = client.create_run({"name": "demo", "dataset": DATASET, "base": BASE, "recipe": RECIPE})
    follow(client, run["id"], quiet=quiet)
    run = client.run(run["id"])
    if run["status"] != "succeeded":
        failure = run["failure"] or {"message": run["explanation"], "hint": "Read the run's log in the demo's home."}
        raise PatinaError(
            FailureCode.INTERNAL, f"The demo's run did not succeed: {failure['message']}", failure["hint"]
        )
    return run


def _generate(client: Client, held_out: HeldOutEmoji, weights: list[Json], folder: Path, quiet: bool) -> list[Path]:
    """One picture a held-out caption, picture k from seed FIRST_SEED + k; the files, in order."""
    folder.mkdir(exist_ok=True)
    files = []
    with _progress(f"generating {folder.name}", quiet) as progress:
        task = progress.add_task("", total=len(held_out.prompts))
        asked = [
            client.generate({**SAMPLING, "prompt": prompt, "seed": FIRST_SEED + k, "weights": weights}, wait_s=0)["id"]
            for k, prompt in enumerate(held_out.prompts)
        ]
        for k, generation_id in enumerate(asked):
            generation = _finished(client, generation_id)
            files.append(folder / f"{k:03d}.png")
            client.download_image(generation["images"][0]["sha256"], files[-1])
            progress.advance(task)
    return files


def _finished(client: Client, generation_id: str) -> Json:
    while (generation := client.generation(generation_id))["status"] not in ("succeeded", "failed", "cancelled"):
        time.sleep(POLL_S)
    if generation["status"] != "succeeded":
        failure = generation["failure"] or {"message": "A generation was cancelled.", "hint": "Run the demo again."}
        raise PatinaError(FailureCode.INTERNAL, failure["message"], failure["hint"])
    return generation


def _told_by_the_run(run: Json, version: Json) -> dict[str, Any]:
    outcome = run["outcome"]
    return {
        "run": run["id"],
        "weights": f"{version['name']}@{version['version']}",
        "base_identity": version["base"]["identity"],
        "images": run["plan"]["images"],
        "steps": run["steps"],
        "train_seconds": round(outcome["train_seconds"], 1),
        "loss_first": outcome["loss_first"],
        "loss_last": outcome["loss_last"],
        "heldout_loss_before": outcome["held_out_loss_before"],
        "heldout_loss_after": outcome["held_out_loss_after"],
    }


def _shown(summary: dict[str, Any], folder: Path, seconds: float) -> list[tuple[str, Any]]:
    each = summary["judge_accuracy_each"]
    return [
        ("trained", f"{summary['steps']} steps on {summary['images']} images in {duration(summary['train_seconds'])}"),
        ("held-out loss", f"{summary['heldout_loss_before']:.4f} → {summary['heldout_loss_after']:.4f}"),
        ("drawn", f"guidance {summary['guidance_scale']}, from equal seeds"),
        ("judge", f"right on {each['twemoji']:.0%} of real Twemoji and {each['noto']:.0%} of real Noto"),
        (
            "style",
            f"Twemoji in {summary['style_base']:.0%} of the base's pictures, {summary['style_lora']:.0%} with the LoRA",
        ),
        (
            "content",
            f"right emoji in {summary['content_base']:.0%} of the base's, {summary['content_lora']:.0%} with the LoRA",
        ),
        ("look at", str(folder / "grid.png")),
        ("", str(folder / "loss.png")),
        ("", str(folder / f"{summary['weights'].partition('@')[0]}.safetensors")),
        ("", str(folder / "summary.json")),
        ("W&B, offline", summary["wandb_dir"]),
        ("all of it took", duration(seconds)),
    ]


def _progress(words: str, quiet: bool) -> Progress:
    columns = (TextColumn(words), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=quiet)
