"""Downloads a data set from the Hugging Face hub: pictures, captions, metadata, Parquet and zips, never code.

Run as `python -m patina.hub_dataset REPOSITORY`; prints one JSON document. The files go where the hub's own cache is
(HF_HOME) and a download that broke off is gone on with. Knows nothing about what is in the files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

from contracts.dataset import CAPTION_EXTENSIONS, IMAGE_EXTENSIONS
from contracts.failures import FailureCode, PatinaError
from contracts.layouts import (
    ARCHIVE_EXTENSION,
    HOLDING_IMAGES,
    KOHYA_METADATA_EXTENSION,
    METADATA_NAMES,
    TABLE_EXTENSION,
    FileKind,
    kind_of,
)
from patina.child import tell
from patina.hub import NOT_GIVEN

KIND = "dataset"
ABOUT_THE_REPOSITORY = frozenset({"dataset_info.json", "dataset_infos.json", "state.json"})
"""What the `datasets` library notes beside the data."""


ENDINGS = (
    *(*IMAGE_EXTENSIONS, *CAPTION_EXTENSIONS, *METADATA_NAMES),
    *(KOHYA_METADATA_EXTENSION, TABLE_EXTENSION, ARCHIVE_EXTENSION),
)
# By ending and not by name: the hub's client compares every file with every pattern.
ALLOWED = ["*" + "".join(f"[{letter}{letter.upper()}]" for letter in ending) for ending in ENDINGS]
IGNORED = [".*", "*/.*", *(f"*{name}" for name in ABOUT_THE_REPOSITORY)]


def main(arguments: Sequence[str]) -> int:
    """Download one data set; the exit code."""
    (repository,) = arguments
    return tell(lambda: download(repository))


def download(repository: str) -> dict[str, Any]:
    """Download what can be uploaded of a data set: the folder, names of the files in it, and of those left out.

    Raises:
        PatinaError: NOT_FOUND: the hub does not give it; EMPTY_DATASET: it holds nothing with pictures.
    """
    try:
        found = HfApi().dataset_info(repository)
        listed = sorted(file.rfilename for file in found.siblings or ())
        wanted = select(listed)
        if not any(kind_of(name) in HOLDING_IMAGES for name in wanted):
            raise PatinaError(
                FailureCode.EMPTY_DATASET,
                f"The data set {repository} on the hub has no picture, Parquet file or zip.",
                "Download it in the form it has, and upload pictures with captions.",
            )
        # Of the very commit whose files were listed, whatever is pushed meanwhile.
        folder = snapshot_download(
            repository, repo_type=KIND, revision=found.sha, allow_patterns=ALLOWED, ignore_patterns=IGNORED
        )
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise _neither(repository, "the hub has no such data set, or not for this token", error) from None
    except NOT_GIVEN as error:
        raise _neither(repository, "the hub does not give such a data set", error) from None
    return {"folder": folder, "names": wanted, "left_out": [name for name in listed if name not in set(wanted)]}


def select(listed: Iterable[str]) -> list[str]:
    """The files of a data set that an upload takes."""
    return [
        name
        for name in listed
        if kind_of(name) is not FileKind.OTHER
        and name.rpartition("/")[2] not in ABOUT_THE_REPOSITORY
        and not any(part.startswith(".") for part in name.split("/"))
    ]


def _neither(repository: str, of_the_hub: str, error: Exception) -> PatinaError:
    return PatinaError(
        FailureCode.NOT_FOUND,
        f"There is no folder or file {repository} here, and {of_the_hub} ({type(error).__name__}).",
        "Check the path or the name on the hub, the network, and HF_TOKEN for a private or gated one.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
