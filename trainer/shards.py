"""A cache of tensors by key in Arrow shards, memory-mapped through Hugging Face ``datasets``.

Adding entries writes one more shard and touches no other. Each shard is written under a temporary name and
renamed, so any number of runs may fill one folder at once: the worst that happens is that both encode the same
entry. Each entry has a checksum, looked at whenever it is read. Knows nothing about what the tensors are.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from datasets.arrow_writer import ArrowWriter
from safetensors.torch import load, save

from datasets import Dataset, Features, Value
from trainer.files import TEMPORARY, publish, sync, temporary_beside

FEATURES = Features({"key": Value("string"), "tensors": Value("large_binary"), "sha256": Value("string")})
ABANDONED_S = 24 * 3600
"""Temporary files older than this were left by a killed run."""

Tensors = Mapping[str, torch.Tensor]

log = logging.getLogger(__name__)


class _Place(NamedTuple):
    """Where an entry lies."""

    file: Path
    shard: Dataset
    row: int


class Shards:
    """The entries of one cache folder; reading opens nothing but memory maps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._where: dict[str, _Place] = {}
        self._opened: dict[tuple[str, int, int], tuple[Dataset, list[str]]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)
        self.refresh()

    def refresh(self) -> None:
        """See the shards that others have added since."""
        self._where, opened = {}, {}
        for file in sorted(self._folder.glob("*.arrow")):
            if file.name.startswith(TEMPORARY):
                continue
            try:
                stat = file.stat()
                name = (file.name, stat.st_ino, stat.st_mtime_ns)
                opened[name] = self._opened.get(name) or _open(file)
            except FileNotFoundError:
                continue  # another run has just replaced it
            except Exception as error:  # in a damaged schema the libraries trip over anything
                if isinstance(error, OSError) and error.errno is not None:
                    raise  # the machine's trouble (no handles, no rights), not the file's
                log.warning("the cache shard %s is damaged; its entries are made again", file)
                file.unlink(missing_ok=True)
                continue
            shard, keys = opened[name]
            for row, key in enumerate(keys):
                self._where.setdefault(key, _Place(file, shard, row))
        self._opened = opened

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def read(self, key: str, make: Callable[[], Tensors]) -> dict[str, torch.Tensor]:
        """The entry of a key; one whose bytes have changed on disk (or that is gone) is made again and put back."""
        place = self._where.get(key)
        blob = _intact(place, key) if place else None
        if blob is None:
            made = make()
            self._repair(place, key, made)
            return dict(made)
        return load(blob)

    def add(self, entries: Iterable[tuple[str, Tensors]]) -> None:
        """Write ``entries`` as one shard, as they come, and see them."""
        self._write((key, save({name: t.contiguous() for name, t in tensors.items()})) for key, tensors in entries)

    def _write(self, entries: Iterable[tuple[str, bytes]]) -> None:
        unfinished = temporary_beside(self._folder / "shard.arrow")
        hasher = hashlib.sha256()
        try:
            with ArrowWriter(path=str(unfinished), features=FEATURES, writer_batch_size=8) as writer:
                for key, blob in entries:
                    hasher.update(key.encode() + b"\n")
                    writer.write({"key": key, "tensors": blob, "sha256": _checksum(key, blob)})
                writer.finalize()
            sync(unfinished)
            publish(unfinished, self._folder / f"{hasher.hexdigest()[:32]}.arrow")
        finally:
            unfinished.unlink(missing_ok=True)
        self.refresh()

    def _repair(self, place: _Place | None, key: str, made: Tensors) -> None:
        """Put a shard with the entry made again in the place of the damaged one; what is intact in it is kept."""
        kept: list[tuple[str, _Place]] = []
        if place is not None:
            log.warning("the cache shard %s is damaged: an entry of it was made again", place.file)
            place.file.unlink(missing_ok=True)
            kept = [(other, at) for other, at in self._where.items() if at.file == place.file and other != key]

        def entries() -> Iterator[tuple[str, bytes]]:
            for other, at in kept:
                if (blob := _intact(at, other)) is not None:
                    yield other, blob
            yield key, save({name: tensor.contiguous() for name, tensor in made.items()})

        self._write(entries())


def _open(file: Path) -> tuple[Dataset, list[str]]:
    shard = Dataset.from_file(str(file))
    if shard.features != FEATURES:
        raise ValueError("other columns")
    # Offsets that point outside the file would end the process.
    shard.data.validate(full=True)
    return shard, shard.data.column("key").to_pylist()


def _intact(place: _Place, key: str) -> bytes | None:
    """An entry's bytes if they are those that were written."""
    table = place.shard.data
    blob: bytes = table.column("tensors")[place.row].as_py()
    return blob if table.column("sha256")[place.row].as_py() == _checksum(key, blob) else None


def _checksum(key: str, blob: bytes) -> str:
    hasher = hashlib.sha256(key.encode() + b"\n")
    hasher.update(blob)
    return hasher.hexdigest()


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{TEMPORARY}*"):
        try:
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
        except FileNotFoundError:
            continue  # another run finished or removed it meanwhile
