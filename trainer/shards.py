"""A cache of tensors by key in Arrow shards, memory-mapped through Hugging Face ``datasets``.

Adding entries writes one more shard and touches no other. Each shard is written under a temporary name and
renamed, so any number of runs may fill one folder at once: the worst that happens is that both encode the same
entry. Knows nothing about what the tensors are.
"""

from __future__ import annotations

import errno
import hashlib
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import torch
from datasets.arrow_writer import ArrowWriter
from safetensors.torch import load, save

from datasets import Dataset, Features, Value
from trainer.files import TEMPORARY, publish, sync, temporary_beside

FEATURES = Features({"key": Value("string"), "tensors": Value("large_binary")})
ABANDONED_S = 24 * 3600
"""Temporary files older than this were left by a killed run."""

Tensors = Mapping[str, torch.Tensor]


class Shards:
    """The entries of one cache folder; reading opens nothing but memory maps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._where: dict[str, tuple[Dataset, int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        self.refresh()

    def refresh(self) -> None:
        """See the shards that others have added since."""
        self._where = {}
        for file in sorted(self._folder.glob("*.arrow")):
            if file.name.startswith(TEMPORARY):
                continue
            try:
                shard = Dataset.from_file(str(file))
                keys = shard.data.column("key").to_pylist()
            except (pa.ArrowInvalid, OSError, KeyError) as error:
                if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                    raise  # the machine's trouble (no handles, no rights), not the file's
                file.unlink(missing_ok=True)  # damaged on disk: its entries are made again
                continue
            for row, key in enumerate(keys):
                self._where.setdefault(key, (shard, row))

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def __getitem__(self, key: str) -> dict[str, torch.Tensor]:
        shard, row = self._where[key]
        return load(shard.data.column("tensors")[row].as_py())

    def add(self, entries: Iterable[tuple[str, Tensors]]) -> None:
        """Write ``entries`` as one shard, as they come, and see them."""
        unfinished = temporary_beside(self._folder / "shard.arrow")
        hasher = hashlib.sha256()
        try:
            with ArrowWriter(path=str(unfinished), features=FEATURES, writer_batch_size=8) as writer:
                for key, tensors in entries:
                    hasher.update(key.encode() + b"\n")
                    writer.write({"key": key, "tensors": save({name: t.contiguous() for name, t in tensors.items()})})
                writer.finalize()
            sync(unfinished)
            publish(unfinished, self._folder / f"{hasher.hexdigest()[:32]}.arrow")
        finally:
            unfinished.unlink(missing_ok=True)
        self.refresh()


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
        except FileNotFoundError:
            continue  # another run finished or removed it meanwhile
