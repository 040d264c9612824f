"""Safetensors files: opened with suspicion, written whole or not at all, with hashes of themselves in the header.

Knows nothing about what the tensors are. Tensors are written one at a time, in the library's own order (wider
types first, then names), so a whole checkpoint never has to be in memory and the hash of its bytes is what other
tools compute.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open

from contracts.failures import FailureCode, PatinaError
from sdxl.hashes import legacy_hash

FLOATS = ("F64", "F32", "F16", "BF16")
INTEGERS = ("I64", "I32", "I16", "I8", "U8")
"""Of an alpha: diffusers' own converter to kohya's form writes the rank as it counts it."""
TAIL_HASH = "modelspec.hash_sha256"
"""ModelSpec's: "0x" and the sha256 of everything after the header."""
MODEL_HASH = "sshs_model_hash"
"""kohya's name of the same hash, which UIs of the A1111 kind take for a LoRA's identity."""
LEGACY_HASH = "sshs_legacy_hash"

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}
_PLACES = {TAIL_HASH: "0x" + "?" * 64, MODEL_HASH: "!" * 64, LEGACY_HASH: "!" * 8}
"""As long as what takes their place once the tensors are written."""


@dataclass(frozen=True)
class Entry:
    """A tensor to write; ``read`` is called once, when its turn comes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


def write(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a file to a temporary name, then rename.

    Metadata among ``TAIL_HASH``, ``MODEL_HASH`` and ``LEGACY_HASH`` get their values here, whatever they hold.

    Raises:
        OSError: no space, no permission; nothing is left under the file's name.
    """
    names = sorted(entries, key=lambda name: (-entries[name].dtype.itemsize, name))
    words = dict(metadata) | {key: place for key, place in _PLACES.items() if key in metadata}
    table: dict[str, Any] = {"__metadata__": dict(sorted(words.items()))}
    end = 0
    for name in names:
        entry, start = entries[name], end
        if entry.dtype not in _DTYPES:
            raise unreadable(f"{name} is of {entry.dtype}; ask for fp32, fp16 or bf16.")
        end += entry.dtype.itemsize * torch.Size(entry.shape).numel()
        table[name] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("w+b") as file:
            _fill(file, table, {name: entries[name] for name in names})
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except Exception:
        temporary.unlink(missing_ok=True)
        raise


def entries_of(state: Mapping[str, torch.Tensor]) -> dict[str, Entry]:
    """Tensors in memory as what ``write`` takes."""
    return {key: Entry(tensor.dtype, tuple(tensor.shape), tensor.detach) for key, tensor in state.items()}


def opened(path: Path) -> Any:
    """A safetensors file, mapped.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is none.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError):
        raise unreadable(f"{path.name} is not a readable safetensors file.") from None


def names_of(file: Any) -> list[str]:
    """Of the tensors of an opened file."""
    return list(file.keys())


def shapes_of(file: Any) -> dict[str, tuple[int, ...]]:
    """Shape by name, every tensor being of floating-point numbers; an alpha may be an integer.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, one is of something else.
    """
    table: dict[str, tuple[int, ...]] = {}
    for key in names_of(file):
        entry = file.get_slice(key)
        if entry.get_dtype() not in (FLOATS + INTEGERS if key.endswith(".alpha") else FLOATS):
            raise unreadable(f"{key} holds {entry.get_dtype()}, not floating-point numbers.")
        table[key] = tuple(entry.get_shape())
    return table


def finite_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a file, one at a time.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, as soon as one holds something that is no finite number.
    """
    with opened(path) as file:
        for key in names_of(file):
            yield key, finite(key, file.get_tensor(key))


def finite(key: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it holds something that is no finite number.
    """
    if not torch.isfinite(tensor).all():
        raise unreadable(f"{key} holds values that are no finite numbers.")
    return tensor


def unreadable(reason: str) -> PatinaError:
    """WEIGHTS_UNREADABLE with an exact reason."""
    return PatinaError(FailureCode.WEIGHTS_UNREADABLE, f"The weights cannot be used. {reason}")


def _fill(file: IO[bytes], table: dict[str, Any], entries: Mapping[str, Entry]) -> None:
    """Tensors are hashed as they pass; the header is written anew when the hashes are known, just as long."""
    head, words, tail = _packed(table), table["__metadata__"], hashlib.sha256()
    file.write(head)
    for name, entry in entries.items():
        data = _bytes(name, entry)
        file.write(data)
        tail.update(data)
    found = {TAIL_HASH: "0x" + tail.hexdigest(), MODEL_HASH: tail.hexdigest()}
    if LEGACY_HASH in words:
        training = {key: value for key, value in words.items() if key.startswith("ss_")}
        found[LEGACY_HASH] = legacy_hash(_packed(table | {"__metadata__": training}), file, len(head))
    file.seek(0)
    file.write(_packed(table | {"__metadata__": words | {key: found[key] for key in found if key in words}}))


def _packed(table: Mapping[str, Any]) -> bytes:
    words = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    words += b" " * (-len(words) % 8)
    return len(words).to_bytes(8, "little") + words


def _bytes(name: str, entry: Entry) -> Any:
    tensor = entry.read().detach().cpu().to(entry.dtype).contiguous()
    if tuple(tensor.shape) != entry.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {entry.shape}")
    return tensor.reshape(-1).view(torch.uint8).numpy().data
