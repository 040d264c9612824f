"""`patina generate`: a prompt becomes pictures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import RenderableType

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from contracts.generate import GenerationRequest, WeightsChoice, parse_weights_choice
from contracts.mistakes import field_errors
from contracts.run import FINISHED
from patina.client import Client, Json
from patina.connect import connect
from patina.output import AsJson, facts, give, notes
from patina.problems import from_problem

WAIT_S = 20.0
"""How long one request waits; longer work is asked for again."""
POLL_S = 0.5


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw; include the trigger word of the weights.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write, or folder to put it in; -0, -1 … for several.")
    ],
    weights: Annotated[
        list[str] | None, typer.Option(help="NAME[@ALIAS][:SCALE], a full fine-tune without scale; up to four.")
    ] = None,
    base: Annotated[str | None, typer.Option(help="Base; without it the one the weights belong to.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; without it one is drawn.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Classifier-free guidance.")] = None,
    images: Annotated[int | None, typer.Option(help="How many pictures.")] = None,
    negative: Annotated[str | None, typer.Option(help="What to steer away from.")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTHxHEIGHT in pixels; without it the base's own.")] = None,
    as_json: AsJson = False,
) -> None:
    """Generate pictures and write them as PNG."""
    errors: list[FieldError] = []
    width, height = _size(size, errors)
    given = {
        "prompt": prompt,
        "negative_prompt": negative,
        "base": base,
        "weights": _weights(weights or (), errors),
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance,
        "images": images,
        "seed": seed,
    }
    request = _request({name: value for name, value in given.items() if value is not None}, errors)
    _refuse_unwritable(output, request.images)
    with connect() as client:
        generation = _wait(client, client.generate(request.model_dump(mode="json", exclude_none=True), WAIT_S))
        _refuse_failed(generation)
        files = _write(client, generation, output)
    answer = {**generation, "files": [str(file) for file in files]}
    give(answer, as_json, lambda: _written(answer))


def _wait(client: Client, generation: Json) -> Json:
    with notes.status("generating …") as status:
        while generation["status"] not in FINISHED:
            if generation["waiting_for"]:
                status.update(f"waiting for a {generation['waiting_for']} …")
            time.sleep(POLL_S)
            generation = client.generation(generation["id"])
    return generation


def _refuse_failed(generation: Json) -> None:
    if generation["status"] == "cancelled":
        raise PatinaError(FailureCode.CANCELLED)
    if generation["failure"] is not None:
        raise from_problem({**generation["failure"], "detail": generation["failure"]["message"]})


def _write(client: Client, generation: Json, output: Path) -> list[Path]:
    pictures = generation["images"]
    targets = _targets(output, generation["id"], len(pictures))
    for picture, target in zip(pictures, targets, strict=True):
        client.download_image(picture["sha256"], target)
    return targets


def _targets(output: Path, default: str, count: int) -> list[Path]:
    """The file of each picture; in a folder they are called ``default``."""
    file = output / f"{default}.png" if output.is_dir() else output
    return [file.with_stem(f"{file.stem}-{i}") for i in range(count)] if count > 1 else [file]


def _refuse_unwritable(output: Path, count: int) -> None:
    """Nothing is generated that could not be kept; makes the folder."""
    try:
        for target in _targets(output, "generation", count):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir():
                raise InvalidInput([FieldError(pointer="/output", message=f"{target} is a folder")])
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f"{target.name}."):  # as a download begins
                pass
    except OSError as error:
        message = f"{output} cannot be written: {error.strerror}"
        raise InvalidInput([FieldError(pointer="/output", message=message)]) from None


def _request(given: dict[str, object], errors: list[FieldError]) -> GenerationRequest:
    """The request; raises with the errors found before and its own."""
    try:
        request = GenerationRequest.model_validate(given)
    except ValidationError as error:
        raise InvalidInput([*errors, *field_errors(error)]) from None
    if errors:
        raise InvalidInput(errors)
    return request


def _weights(words: Sequence[str], errors: list[FieldError]) -> list[WeightsChoice]:
    chosen = []
    for word in words:
        try:
            chosen.append(parse_weights_choice(word))
        except ValidationError as error:
            errors.extend(field_errors(error, "/weights"))
        except ValueError as error:
            errors.append(FieldError(pointer="/weights", message=str(error)))
    return chosen


def _size(text: str | None, errors: list[FieldError]) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        errors.append(FieldError(pointer="/size", message=f"'{text}' is not WIDTHxHEIGHT, for example 1024x1024"))
        return None, None
    return int(width), int(height)


def _written(answer: Json) -> RenderableType:
    used = ", ".join(f"{w['name']}@{w['version']}:{w['scale']:g}" for w in answer["weights"])
    pairs = [
        ("written", ", ".join(answer["files"])),
        ("seed", answer["request"]["seed"]),
        ("base", answer["base"]["name"]),
        ("weights", used or None),
        ("took", f"{answer['seconds']:.1f} s" if answer["seconds"] else None),
    ]
    return facts(pairs)
