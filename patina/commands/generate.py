"""`patina generate`: a prompt becomes pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import RenderableType

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError, field_errors
from contracts.generate import GenerationRequest, WeightsChoice, parse_weights_choice
from patina.client import Client, Json
from patina.connect import connect
from patina.output import AsJson, facts, give, notes

WAIT_S = 20.0
"""How long one request waits; longer work is asked for again."""
POLL_S = 0.5
ENDED = frozenset({"succeeded", "failed", "cancelled"})


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw; include the trigger word of the weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; -0, -1 … for several.")],
    weights: Annotated[list[str] | None, typer.Option(help="NAME[@ALIAS][:SCALE]; up to four.")] = None,
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
    width, height = _size(size)
    given = {
        "prompt": prompt,
        "negative_prompt": negative,
        "base": base,
        "weights": _weights(weights or []),
        "width": width,
        "height": height,
        "steps": steps,
        "guidance_scale": guidance,
        "images": images,
        "seed": seed,
    }
    request = _request({name: value for name, value in given.items() if value is not None})
    with connect() as client:
        generation = _wait(client, client.generate(request.model_dump(mode="json", exclude_none=True), WAIT_S))
        _refuse_failed(generation)
        files = _write(client, generation, output)
    answer = {**generation, "files": [str(file) for file in files]}
    give(answer, as_json, lambda: _written(answer))


def _wait(client: Client, generation: Json) -> Json:
    with notes.status("generating …"):
        while generation["status"] not in ENDED:
            time.sleep(POLL_S)
            generation = client.generation(generation["id"])
    return generation


def _refuse_failed(generation: Json) -> None:
    if generation["status"] == "succeeded":
        return
    failure = generation.get("failure") or {}
    code = FailureCode(failure.get("code", FailureCode.CANCELLED))
    raise PatinaError(code, failure.get("message"), failure.get("hint"))


def _write(client: Client, generation: Json, output: Path) -> list[Path]:
    pictures = generation["images"]
    output.parent.mkdir(parents=True, exist_ok=True)
    several = len(pictures) > 1
    names = [output.with_stem(f"{output.stem}-{i}") if several else output for i in range(len(pictures))]
    for picture, name in zip(pictures, names, strict=True):
        client.download_image(picture["sha256"], name)
    return names


def _request(given: dict[str, object]) -> GenerationRequest:
    try:
        return GenerationRequest.model_validate(given)
    except ValidationError as error:
        raise InvalidInput(field_errors(error)) from None


def _weights(words: list[str]) -> list[WeightsChoice]:
    chosen, errors = [], []
    for word in words:
        try:
            chosen.append(parse_weights_choice(word))
        except ValidationError as error:
            errors += field_errors(error, "/weights")
        except ValueError as error:
            errors.append(FieldError(pointer="/weights", message=str(error)))
    if errors:
        raise InvalidInput(errors)
    return chosen


def _size(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise InvalidInput(
            [FieldError(pointer="/size", message=f"'{text}' is not WIDTHxHEIGHT, for example 1024x1024")]
        )
    return int(width), int(height)


def _written(answer: Json) -> RenderableType:
    pairs = [("written", ", ".join(answer["files"])), ("seed", answer.get("seed")), ("generation", answer["id"])]
    return facts(pairs)
