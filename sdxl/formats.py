"""Weights files: LoRA and full-UNet safetensors with a header, written for stock loaders and read with suspicion.

Knows nothing about registries or models: shapes to check against come from the caller. Files from elsewhere
may say anything; keys, shapes, ranks and numbers are checked before a tensor is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from contracts.adapter import AdapterHeader
from contracts.failures import FailureCode, PatinaError

ADAPTER_METADATA = "lora_adapter_metadata"
"""Header key by which diffusers and peft learn rank and alpha, which PEFT key names do not carry."""
MAX_RANK = 256
MAX_ADAPTER_BYTES = 4 * 2**30
FLOATS = ("F64", "F32", "F16", "BF16")
_KEY = re.compile(r"unet\.(?P<layer>[a-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
_HASH_CHUNK_BYTES = 2**20

LayerShapes = Mapping[str, tuple[int, int]]
"""Layer name in the UNet -> (out features, in features)."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA read from a file."""

    state: dict[str, torch.Tensor]
    rank: int
    """The largest of its layers'."""
    alpha: float
    header: AdapterHeader | None
    """None when the file was not made by Patina."""

    @property
    def bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.state.values())


def save_adapter(path: Path, state: Mapping[str, torch.Tensor], header: AdapterHeader) -> None:
    """Write a LoRA under diffusers' PEFT keys, with rank and alpha where stock diffusers looks for them."""
    layers = sorted({match["layer"] for key in state if (match := _KEY.fullmatch(key))})
    rank = header.rank or max((len(t) for key, t in state.items() if ".lora_A." in key), default=1)
    alpha = header.alpha if header.alpha is not None else float(rank)
    settings = {"r": rank, "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "target_modules": layers}
    metadata = header.to_metadata() | {
        "format": "pt",
        ADAPTER_METADATA: json.dumps({f"unet.{key}": value for key, value in settings.items()}, sort_keys=True),
    }
    _write(path, state, metadata)


def save_full(path: Path, state: Mapping[str, torch.Tensor], header: AdapterHeader) -> None:
    """Write a whole UNet under diffusers' own keys, as ``unet/diffusion_pytorch_model.safetensors`` has them."""
    _write(path, state, header.to_metadata() | {"format": "pt"})


def load_adapter(path: Path, *, layers: LayerShapes | None = None, base_identity: str | None = None) -> Adapter:
    """Read a LoRA, refusing whatever is not exactly that.

    Args:
        layers: the layers of the base it will act on; None leaves shapes unchecked.
        base_identity: of the base it will act on; a file that names another is refused.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH, with the reason.
    """
    if path.is_file() and path.stat().st_size > MAX_ADAPTER_BYTES:
        raise _unreadable(f"{path.name} is larger than {MAX_ADAPTER_BYTES >> 30} GiB.")
    with _opened(path) as file:
        metadata = file.metadata() or {}
        header = AdapterHeader.from_metadata(metadata)
        _require_base(header, base_identity)
        table = _table(file)
        ranks = _ranks(table, layers)
        state = {key: file.get_tensor(key) for key in table}
    _require_finite(state.items())
    rank = max(ranks.values())
    return Adapter(state=state, rank=rank, alpha=_alpha(metadata, header, rank), header=header)


def check_full(path: Path, shapes: Mapping[str, tuple[int, ...]], *, base_identity: str | None = None) -> None:
    """Make sure a full-UNet file fits the base's UNet; reads its header only.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE or BASE_MISMATCH, with the reason.
    """
    with _opened(path) as file:
        _require_base(AdapterHeader.from_metadata(file.metadata()), base_identity)
        table = _table(file)
    if differing := sorted(table.keys() ^ shapes.keys()):
        raise _unreadable(f"{len(differing)} tensors differ from the base's UNet, such as {differing[0]}.")
    for key, shape in table.items():
        if shape != shapes[key]:
            raise _unreadable(f"{key} has shape {shape}, the base's has {shapes[key]}.")


def full_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a full-UNet file, one at a time.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, as soon as one holds something that is no finite number.
    """
    with _opened(path) as file:
        for key in file.keys():  # noqa: SIM118 (no mapping)
            tensor = file.get_tensor(key)
            _require_finite([(key, tensor)])
            yield key, tensor


def read_header(path: Path) -> AdapterHeader | None:
    """Our header of a weights file; None when the file was made elsewhere.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is no safetensors file.
    """
    with _opened(path) as file:
        return AdapterHeader.from_metadata(file.metadata())


def tail_hash(path: Path) -> str:
    """sha256 of the tensors' bytes without the header ("AutoV3"): what other tools know a LoRA by."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(_HASH_CHUNK_BYTES):
            found.update(chunk)
    return found.hexdigest()


def _write(path: Path, state: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}, temporary, metadata)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _table(file: Any) -> dict[str, tuple[int, ...]]:
    table: dict[str, tuple[int, ...]] = {}
    for key in file.keys():  # noqa: SIM118 (no mapping)
        entry = file.get_slice(key)
        if entry.get_dtype() not in FLOATS:
            raise _unreadable(f"{key} holds {entry.get_dtype()}, not floating-point numbers.")
        table[key] = tuple(entry.get_shape())
    return table


def _ranks(table: Mapping[str, tuple[int, ...]], layers: LayerShapes | None) -> dict[str, int]:
    """Each layer's rank, all keys and shapes being as they should."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, shape in table.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise _unreadable(f"'{key[:120]}' is no key of a UNet LoRA in PEFT form.")
        if len(shape) != 2:
            raise _unreadable(f"{key} has {len(shape)} dimensions; only linear layers can be adapted.")
        found.setdefault(match["layer"], {})[match["side"]] = shape
    if not found:
        raise _unreadable("There is no adapted layer in it.")
    for layer, sides in found.items():
        if len(sides) != 2:
            raise _unreadable(f"{layer} has only one of lora_A and lora_B.")
        (rank, features_in), (features_out, rank_of_b) = sides["A"], sides["B"]
        if rank != rank_of_b or not 1 <= rank <= MAX_RANK:
            raise _unreadable(f"{layer} has rank {rank} and {rank_of_b}; both must agree, from 1 to {MAX_RANK}.")
        if layers is not None and layers.get(layer) != (features_out, features_in):
            raise _unreadable(f"{layer} ({features_out} x {features_in}) fits no layer of the base.")
    return {layer: sides["A"][0] for layer, sides in found.items()}


def _alpha(metadata: Mapping[str, str], header: AdapterHeader | None, rank: int) -> float:
    """Our header's, else what peft left, else the rank; anything that changes the arithmetic is refused."""
    if header is not None and header.alpha is not None:
        return header.alpha
    try:
        settings = json.loads(metadata.get(ADAPTER_METADATA, "{}"))
        for name in ("alpha_pattern", "use_dora", "use_rslora"):
            if settings.get(f"unet.{name}"):
                raise _unreadable(f"It uses {name}, which is not supported.")
        alpha = float(settings.get("unet.lora_alpha", rank))
    except (ValueError, TypeError, AttributeError):
        raise _unreadable(f"Its {ADAPTER_METADATA} header cannot be read.") from None
    if not 0 < alpha < 1e6:
        raise _unreadable(f"Its alpha is {alpha}.")
    return alpha


def _require_base(header: AdapterHeader | None, base_identity: str | None) -> None:
    if header is not None and base_identity is not None and header.base_identity != base_identity:
        raise PatinaError(
            FailureCode.BASE_MISMATCH,
            f"'{header.name}' belongs to base {header.base_identity}, not to base {base_identity}.",
        )


def _require_finite(tensors: Any) -> None:
    for key, tensor in tensors:
        if not torch.isfinite(tensor).all():
            raise _unreadable(f"{key} holds values that are no finite numbers.")


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError):
        raise _unreadable(f"{path.name} is not a readable safetensors file.") from None


def _unreadable(reason: str) -> PatinaError:
    return PatinaError(FailureCode.WEIGHTS_UNREADABLE, f"The weights cannot be used. {reason}")
