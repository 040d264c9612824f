"""`patina datasets rm`: a dataset, one of its images, or one of its versions."""

from __future__ import annotations

from typing import Annotated

import typer

from contracts.failures import FailureCode, FieldError, InvalidInput, PatinaError
from patina import contents, removing
from patina.client import Client, Json
from patina.connect import connect
from patina.output import AsJson


def remove(
    dataset: Annotated[str, typer.Argument(help="Name or id of the dataset.")],
    image: Annotated[
        str | None, typer.Option(help="Only this image: its file name, or the beginning of its identity.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Only this version, which is withdrawn.")] = None,
    keep_history: removing.KeepHistory = False,
    remove: removing.Remove = None,
    yes: removing.Yes = False,
    as_json: AsJson = False,
) -> None:
    """Remove a dataset, or an image or a version of it; says what came of it, and asks what shall become of that."""
    if image is not None and version is not None:
        raise InvalidInput([FieldError(pointer="/version", message="cannot be given with --image")])
    said = removing.Said(keep_history, remove, yes, as_json)
    with connect() as client:
        found = _dataset(client, dataset)
        place = f"/api/v1/datasets/{found['id']}"
        if image is not None:
            meant, tag = _image(client, found["id"], image)
            path, what = f"{place}/images/{meant['image']}", f"{meant['name']} of '{found['name']}'"
            removing.remove(client, path, what, said, {"If-Match": tag})
        elif version is not None:
            removing.remove(client, f"{place}/versions/{version}", f"version {version} of '{found['name']}'", said)
        else:
            removing.remove(client, place, f"'{found['name']}' with {found['images']} images", said)


def _dataset(client: Client, dataset: str) -> Json:
    """A removed dataset whose versions were kept is not read any more, and can still be removed by its id."""
    try:
        return client.dataset(dataset)
    except PatinaError as error:
        if error.code is not FailureCode.NOT_FOUND or not dataset.startswith("ds_"):
            raise
    return {"id": dataset, "name": dataset, "images": 0}


def _image(client: Client, dataset: str, named: str) -> tuple[Json, str]:
    """Images that were taken out can be removed too."""
    try:
        return contents.find_image(client, dataset, named)
    except PatinaError as error:
        if error.code is not FailureCode.NOT_FOUND:
            raise
    return contents.find_image(client, dataset, named, removed=True)
