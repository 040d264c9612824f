"""What an upload or a base is taken from: a folder or file here, else a repository on the Hugging Face hub.

Knows nothing about what is in the files; the hub is asked in a process of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from patina import uploading
from patina.child import ask

ABOUT_THE_DATA = "what the `datasets` library notes beside the data, and no caption"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def find(source: str, about_to_download: Callable[[str], None]) -> uploading.Found:
    """The files to send of what lies here, which goes first, or else of a data set on the hub.

    Args:
        about_to_download: called with the data set's name.

    Raises:
        PatinaError: NOT_FOUND: there is neither; EMPTY_DATASET: there is nothing to send in it.
    """
    place = Path(source).expanduser()
    if place.exists() or not HUB_ID.fullmatch(source):
        return uploading.find(place)
    about_to_download(source)
    answer = ask("patina.hub_dataset", source)
    folder = Path(answer["folder"])
    left_out = {name: uploading.why_left_out(name) or ABOUT_THE_DATA for name in answer["left_out"]}
    return uploading.Found([(name, folder / name) for name in answer["names"]], left_out)
