"""What a base is, whatever its file is called or packed as: hashes over its tensors.

Every tensor is cast to fp16 first, so an fp32, a bf16 and an fp16 copy of the same weights are told apart
only where fp16 can tell them apart. Knows nothing about models.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from contracts.base import TensorEntry, base_identity
from contracts.config import digest
from sdxl import files as base_files
from sdxl.files import BaseFiles

WEIGHT_COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
HASHERS = min(8, os.cpu_count() or 1)
"""Tensors that are hashed side by side; no more of them are in memory."""
_VERSION = 1
"""Of how identities are computed; a change makes cached ones stale."""


def identities(files: BaseFiles, cache_dir: Path | None = None) -> tuple[str, str]:
    """(identity of UNet and text encoders, identity of the VAE), read one tensor at a time."""
    cached = None if cache_dir is None else cache_dir / f"identity-{_fingerprint(files)}.json"
    if cached is not None and cached.is_file():
        found = json.loads(cached.read_text())
        return found["base"], found["vae"]
    base = base_identity(entry for part in WEIGHT_COMPONENTS for entry in entries(files, part))
    vae = base_identity(entries(files, "vae"))
    if cached is not None:
        cached.parent.mkdir(parents=True, exist_ok=True)
        temporary = cached.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({"base": base, "vae": vae}))
        temporary.replace(cached)
    return base, vae


def entries(files: BaseFiles, component: str) -> Iterator[TensorEntry]:
    """A component's tensors as the identity sees them, in the order of its files."""

    def entry(key: str, half: torch.Tensor) -> TensorEntry:
        data = half.view(-1).view(torch.uint8).numpy().data
        return TensorEntry(f"{component}.{key}", tuple(half.shape), hashlib.sha256(data).hexdigest())

    with ThreadPoolExecutor(HASHERS) as pool:
        begun = deque[Future[TensorEntry]]()
        for key, tensor in base_files.tensors(files, component):
            # Cast here: torch shares that among threads of its own.
            begun.append(pool.submit(entry, key, tensor.to(torch.float16).contiguous()))
            if len(begun) == HASHERS:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def _fingerprint(files: BaseFiles) -> str:
    """Tells files apart without reading them through: name, size, inode, both times, and the tensors' table.

    Hashing whole files would cost as much as the identity itself.
    """
    seen = []
    for path in sorted({p for part in base_files.COMPONENTS for p in base_files.weight_files(files, part)}):
        stat = path.stat()
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = hashlib.sha256(file.read(min(length, 100_000_000))).hexdigest()
        times = [stat.st_mtime_ns, stat.st_ctime_ns]
        seen.append([str(path.resolve()), stat.st_size, stat.st_ino, *times, header])
    return digest([_VERSION, seen])
