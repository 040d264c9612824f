"""Downloads an SDXL base from the Hugging Face hub: configs, tokenizers and safetensors, never a pickle or code.

Run as `python -m patina.hub REPOSITORY FOLDER`; prints one JSON document. Knows nothing about what is in the files.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from contracts.failures import FailureCode, PatinaError
from patina.child import tell

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")
TEXT_FOLDERS = ("scheduler", "tokenizer", "tokenizer_2")
TEXT_SUFFIXES = (".json", ".txt")
HALF = ".fp16."
"""The half-precision variant: half the download, and the same identity, which is taken in fp16."""

NO_ANSWER: type[Exception] = HfHubHTTPError.__mro__[1]
"""What any request may end in: the hub's client has changed its HTTP library before, and derives from it."""
NOT_GIVEN = (NO_ANSWER, LocalEntryNotFoundError, ConnectionError, ValueError)
"""How the hub's client says that there is nothing to be had."""


def main(arguments: Sequence[str]) -> int:
    """Download one repository; the exit code."""
    repository, folder = arguments
    return tell(lambda: {"folder": str(download(repository, Path(folder)))})


def download(repository: str, folder: Path) -> Path:
    """Download what an SDXL base needs of ``repository`` into ``folder``; goes on where it broke off.

    Raises:
        PatinaError: BASE_UNREADABLE: the hub does not have it, or it is not a diffusers SDXL folder.
    """
    try:
        wanted = select(HfApi().list_repo_files(repository))
        if not wanted:
            raise PatinaError(
                FailureCode.BASE_UNREADABLE,
                f"{repository} has no model_index.json with safetensors beside it.",
                "Download its .safetensors checkpoint and add that file.",
            )
        snapshot_download(repository, local_dir=folder, allow_patterns=wanted)
    except NOT_GIVEN as error:
        raise PatinaError(
            FailureCode.BASE_UNREADABLE,
            f"The hub does not give {repository} ({type(error).__name__}).",
            "Check the name, the network and, for a gated repository, HF_TOKEN; or add a local folder.",
        ) from None
    return folder


def select(files: Iterable[str]) -> list[str]:
    """The files of a diffusers SDXL folder that are needed, weights in half precision where there are any."""
    listed = sorted(files)
    if "model_index.json" not in listed:
        return []
    wanted = ["model_index.json"]
    for path in listed:
        folder, _, name = path.partition("/")
        if folder in TEXT_FOLDERS and "/" not in name and name.endswith(TEXT_SUFFIXES):
            wanted.append(path)
    for network in NETWORKS:
        weights = [p for p in listed if p.startswith(f"{network}/") and ".safetensors" in p]
        if not weights:
            return []
        half = [p for p in weights if HALF in p or p.endswith("index.fp16.json")]
        wanted += [f"{network}/config.json", *(half or weights)]
    return wanted


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
