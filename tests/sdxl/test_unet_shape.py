"""Distilled SDXLs: the shape of a UNet is told from its tensors' names, and anything else is refused."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.random_sdxl import SSD_1B, write_base
from contracts.failures import PatinaError
from contracts.footprint import Work
from sdxl import files as base_files
from sdxl import original
from sdxl.base import identity, load_base
from sdxl.files import SDXL_CONFIGS
from sdxl.lora import attach, target_modules
from sdxl.networks import unet_from_config
from sdxl.profile import trace_profile
from sdxl.unet_shape import told_from_names
from tests.profiles import few_traces
from tests.sdxl.original_layout import to_original

SDXL = json.loads((SDXL_CONFIGS / "unet" / "config.json").read_text())
SSD_1B_PARAMETERS = 1_331_334_404
"""At full size, which its makers round to 1.3 B."""


def full_size(config):
    with torch.device("meta"):
        return unet_from_config(config)


def original_names(config):
    return list(to_original("unet", full_size(config).state_dict()))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A tiny folder of SSD-1B's structure."""
    folder = tmp_path_factory.mktemp("tiny-ssd-1b")
    write_base(folder, size="tiny-ssd-1b", dtype=torch.float16)
    return folder


@pytest.fixture(scope="module")
def distilled_file(distilled, tmp_path_factory):
    """The same weights as one file in the original layout."""
    files, state = base_files.open_base(distilled), {}
    for component in base_files.COMPONENTS:
        named = to_original(component, dict(base_files.tensors(files, component)))
        state |= {original.PREFIXES[component] + name: tensor.contiguous() for name, tensor in named.items()}
    path = tmp_path_factory.mktemp("single") / "ssd.safetensors"
    save_file(state, path)
    return path


class TestToldFromNames:
    def test_leaves_sdxl_as_it_is(self):
        assert told_from_names(SDXL, original_names(SDXL)) == SDXL

    def test_finds_ssd_1b_at_full_size(self):
        found = told_from_names(SDXL, original_names(SDXL | SSD_1B))
        unet = full_size(found)
        assert sum(parameter.numel() for parameter in unet.parameters()) == SSD_1B_PARAMETERS
        assert unet.state_dict().keys() == full_size(SDXL | SSD_1B).state_dict().keys()
        # 34 transformer layers of ten modules each, and the projections in and out of ten transformers.
        assert len(target_modules(unet, "attn-ff")) == 34 * 10 + 10 * 2
        assert not [name for name in target_modules(unet, "attn-ff") if name.startswith("mid_block")]

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            (lambda names: [name for name in names if not name.startswith("output_blocks.8.")], "8 output_blocks"),
            (lambda names: [*names, "input_blocks.1.1.transformer_blocks.0.norm1.weight"], "attention where"),
            (lambda names: [name for name in names if not name.startswith("input_blocks.7.1.")], "none where it has"),
            (lambda names: [*names, "middle_block.1.transformer_blocks.6.norm1.weight"], "7 transformer layers"),
        ],
    )
    def test_refuses_what_is_neither(self, changed, words):
        with pytest.raises(PatinaError, match=words) as caught:
            told_from_names(SDXL, changed(original_names(SDXL | SSD_1B)))
        assert caught.value.code == "base_unreadable"


class TestADistilledBase:
    def test_is_the_same_from_a_folder_and_from_a_single_file(self, distilled, distilled_file, tiny_base):
        # Of a single file only the sizes are not told by names: they are the tiny SDXL's.
        folder = load_base(distilled, dtype=torch.float32, components={"unet"})
        single = load_base(distilled_file, dtype=torch.float32, components={"unet"}, config_dir=tiny_base)
        ours, theirs = single.unet.state_dict(), folder.unet.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
        assert identity(distilled) == identity(distilled_file, config_dir=tiny_base)
        assert identity(distilled) != identity(tiny_base)

    @pytest.mark.slow
    def test_can_be_trained_and_planned(self, distilled):
        unet = load_base(distilled, dtype=torch.float32, components={"unet"}).unet
        bank = attach(unet, rank=2, alpha=2.0, targets="attn-ff", seed=0)
        added = {"text_embeds": torch.ones(1, 32), "time_ids": torch.ones(1, 6)}
        unet(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 77, 64), added_cond_kwargs=added).sample.sum().backward()
        assert all(parameter.grad is not None for parameter in bank.parameters())
        with few_traces((("attn-ff", ""),)):
            profile = trace_profile(base_files.open_base(distilled))
        assert len(profile.adapted("attn-ff")) == len(bank.module_names)
        step = profile.steps["attn-ff"]
        work = Work(images=1, positions=64, rank=2)
        assert step.plain.peak_bytes(work) > step.checkpointed.peak_bytes(work) > 0
