"""A tiny random SDXL, LoRA files for it, and an engine on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.random_sdxl import write_base
from contracts.adapter import AdapterHeader
from inference.engine import Engine
from sdxl.base import identity, load_base
from sdxl.formats import save_adapter
from sdxl.lora import serve


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny-sdxl")
    write_base(out, size="tiny", dtype=torch.float16)
    return out


@pytest.fixture(scope="session")
def base_identity(tiny_base: Path) -> str:
    return identity(tiny_base)[0]


@pytest.fixture(scope="session")
def shapes(tiny_base: Path) -> dict[str, tuple[int, ...]]:
    """Of the linear layers of the UNet."""
    found = serve(load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet).shapes
    return {name: shape for name, shape in found.items() if len(shape) == 2}


@pytest.fixture(scope="session")
def make_header(base_identity: str) -> Callable[..., AdapterHeader]:
    def make(**changes: object) -> AdapterHeader:
        values = {
            "name": "tiny",
            "method": "lora",
            "base_identity": base_identity,
            "config_digest": "b" * 64,
            "dataset_version": "c" * 64,
            "trigger_word": None,
            "rank": 4,
            "alpha": 2.0,
            "targets": "attn-ff",
            "resolution_px": 64,
            "prediction_type": "epsilon",
            "steps": 10,
            "created": "2026-01-01T00:00:00Z",
        }
        return AdapterHeader.model_validate(values | changes)

    return make


@pytest.fixture
def make_adapter(tmp_path: Path, shapes, make_header) -> Callable[[int], Path]:
    """Writes a random LoRA of rank 4; the same seed gives the same one."""

    def make(seed: int) -> Path:
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for name, (features_out, features_in) in shapes.items():
            state[f"{name}.lora_A.weight"] = torch.randn(4, features_in, generator=generator) * 0.2
            state[f"{name}.lora_B.weight"] = torch.randn(features_out, 4, generator=generator) * 0.2
        path = tmp_path / f"lora-{seed}.safetensors"
        save_adapter(path, state, make_header())
        return path

    return make


@pytest.fixture
def engine(tiny_base: Path, base_identity: str) -> Engine:
    return Engine(tiny_base, base_identity=base_identity, max_pictures=4)
