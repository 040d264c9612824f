"""Bring an SDXL base from the Hugging Face hub to a local folder. Only the server's own commands may ask.

Knows nothing about what the files say; sdxl/base.py reads the folder and refuses what is not SDXL.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import httpx
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from contracts.failures import FailureCode, PatinaError
from sdxl.files import COMPONENTS


def fetch(repository: str, *, revision: str | None = None, cache_dir: Path | None = None) -> Path:
    """Download a diffusers-format base and say where it lies; what is there already is not fetched again.

    Args:
        repository: "owner/name" on the hub.
        revision: branch, tag or commit; None is the default branch.
        cache_dir: None is the hub library's own.

    Raises:
        PatinaError: BASE_UNREADABLE, it is not there, not for this account, or the hub does not answer.
    """
    try:
        names = wanted(HfApi().list_repo_files(repository, revision=revision))
        if "model_index.json" not in names:
            raise PatinaError(FailureCode.BASE_UNREADABLE, f"{repository} holds no diffusers pipeline.")
        return Path(snapshot_download(repository, revision=revision, cache_dir=cache_dir, allow_patterns=names))
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError):
        raise PatinaError(
            FailureCode.BASE_UNREADABLE,
            f"The hub gives no {repository} here.",
            "Check the name, the network and, for a gated model, HF_TOKEN; or pass a folder or file.",
        ) from None


def wanted(names: Iterable[str]) -> list[str]:
    """The files a base needs: configs, tokenizers, and of each network one set of safetensors, fp16 where there is one.

    An fp16 copy is half the download, and identities are taken in fp16 anyway.
    """
    listed = sorted(names)
    chosen = [name for name in listed if _is_small(name)]
    for component in COMPONENTS:
        weights = [n for n in listed if n.startswith(f"{component}/") and ".safetensors" in n]
        half = [n for n in weights if "fp16" in n]
        chosen += half or [n for n in weights if not any(f".{v}." in n for v in ("non_ema", "bf16"))]
    return chosen


def _is_small(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if folder in COMPONENTS:
        return file == "config.json"
    return name == "model_index.json" or folder in ("scheduler", "tokenizer", "tokenizer_2")
