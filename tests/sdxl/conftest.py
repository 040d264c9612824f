"""A tiny random SDXL on disk, in both layouts, and what loads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_sdxl import write_base
from contracts.adapter import AdapterHeader
from sdxl import files as base_files
from sdxl import original
from sdxl.base import Base, load_base
from tests.sdxl.original_layout import to_original


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder in fp16."""
    out = tmp_path_factory.mktemp("tiny-sdxl")
    write_base(out, size="tiny", dtype=torch.float16)
    return out


@pytest.fixture(scope="session")
def tiny_single_file(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as one file in the original layout, with some tensors no one asked for."""
    files = base_files.open_base(tiny_base)
    state = {"conditioner.embedders.1.model.logit_scale": torch.tensor(1.0)}
    for component in base_files.COMPONENTS:
        named = to_original(component, dict(base_files.tensors(files, component)))
        state |= {original.PREFIXES[component] + name: tensor for name, tensor in named.items()}
    path = tmp_path_factory.mktemp("single") / "tiny.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture
def base(tiny_base: Path) -> Base:
    """The whole tiny base in fp32."""
    return load_base(tiny_base, dtype=torch.float32)


@pytest.fixture
def header() -> AdapterHeader:
    return make_header()


def make_header(**changes: Any) -> AdapterHeader:
    values: dict[str, Any] = {
        "name": "tiny",
        "method": "lora",
        "base_identity": "a" * 64,
        "config_digest": "b" * 64,
        "dataset_version": "c" * 64,
        "trigger_word": "tok",
        "rank": 4,
        "alpha": 2.0,
        "targets": "attn-ff",
        "resolution_px": 64,
        "prediction_type": "epsilon",
        "steps": 10,
        "created": "2026-01-01T00:00:00Z",
    }
    return AdapterHeader.model_validate(values | changes)
