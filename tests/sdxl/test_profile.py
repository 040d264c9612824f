from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from sdxl import profile
from sdxl.base import load_base
from sdxl.files import COMPONENTS, SDXL_CONFIGS, BaseFiles, open_base
from sdxl.lora import attach
from sdxl.networks import empty_network
from sdxl.profile import trace_profile


class TestTraceProfile:
    def test_keeps_the_bytes_a_real_step_keeps(self, tiny_base, monkeypatch):
        traced = trace_profile(open_base(tiny_base))
        unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        bank = attach(unet, rank=profile.TRACED_RANK, alpha=16, targets="attn-ff", seed=0)
        seen: dict[int, int] = {}
        alive = []
        ignored = {p.data_ptr() for p in unet.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in ignored:
                seen[storage.data_ptr()] = storage.nbytes()
                alive.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            unet(
                torch.zeros(1, 4, 8, 8),
                torch.zeros(1),
                torch.zeros(1, 77, 64),
                added_cond_kwargs={"text_embeds": torch.zeros(1, 32), "time_ids": torch.zeros(1, 6)},
            )
        native, smaller = traced.activations
        assert native.bytes_plain == pytest.approx(sum(seen.values()), rel=0.02)
        assert native.bytes_checkpointed < native.bytes_plain
        assert smaller.bytes_plain < native.bytes_plain
        assert (native.width_px, smaller.width_px) == (64, 32)
        assert traced.adapted_modules["attn-ff"] == len(bank.module_names)
        assert traced.adapted_features["attn-ff"] * 16 == sum(p.numel() for p in bank.parameters())

    def test_knows_the_real_sdxl_without_any_weights(self, tmp_path):
        files = _hollow(tmp_path)
        found = trace_profile(files)
        assert found.unet_parameters == 2_567_463_684
        assert found.adapted_modules == {"attn": 560, "attn-ff": 722}
        assert found.adapted_features["attn-ff"] == 2_659_840
        assert found.vae_parameters == 83_653_863
        native = found.activations[0]
        assert native.width_px == 1024
        assert native.bytes_checkpointed < native.bytes_plain / 3


def _hollow(folder: Path) -> BaseFiles:
    """SDXL 1.0 with headers that tell true shapes and data that is a hole in the file system."""
    real = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)
    for component in COMPONENTS:
        stem = "model" if component.startswith("text_encoder") else "diffusion_pytorch_model"
        path = folder / component / f"{stem}.safetensors"
        path.parent.mkdir()
        shapes = {key: t.shape for key, t in empty_network(real, component).state_dict().items()}
        _write_hole(path, shapes)
    return BaseFiles(folder, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)


def _write_hole(path: Path, shapes: dict[str, torch.Size]) -> None:
    table, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        table[key] = {"dtype": "F16", "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
