from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

from sdxl.files import SDXL_CONFIGS, BaseFiles, config
from sdxl.networks import empty_network
from sdxl.original import PREFIXES, to_diffusers, vae_levels
from tests.sdxl.original_layout import to_original

REAL = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)


def ours(component: str, original: dict[str, torch.Tensor]) -> dict[str, torch.Size]:
    levels = vae_levels(original)
    named = [pair for name, tensor in original.items() for pair in to_diffusers(component, name, tensor, levels)]
    assert len(dict(named)) == len(named)
    return {name: tensor.shape for name, tensor in named}


class TestToDiffusers:
    """At SDXL's real size, on shapes alone, against diffusers' own conversion."""

    @pytest.mark.parametrize(
        ("component", "convert"), [("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)]
    )
    def test_names_every_tensor_as_diffusers_does(self, component, convert):
        state = empty_network(REAL, component).state_dict()
        original = to_original(component, state)
        theirs = convert(
            {PREFIXES[component] + name: tensor for name, tensor in original.items()}, config(REAL, component)
        )
        found = ours(component, original)
        assert found.keys() == theirs.keys() == state.keys()
        assert found == {key: tensor.shape for key, tensor in state.items()}

    def test_unpacks_open_clip_as_diffusers_does(self):
        network = empty_network(REAL, "text_encoder_2")
        state = network.state_dict()
        original = to_original("text_encoder_2", state)
        prefix = PREFIXES["text_encoder_2"]
        theirs = convert_open_clip_checkpoint(network, {prefix + n: t for n, t in original.items()}, prefix)
        found = ours("text_encoder_2", original)
        assert found.keys() == theirs.keys() == state.keys()
        assert found == {key: tensor.shape for key, tensor in theirs.items()}

    def test_leaves_out_what_belongs_to_no_network(self):
        for component, name in [
            ("text_encoder_2", "logit_scale"),
            ("text_encoder", "text_model.embeddings.position_ids"),
            ("unet", "something_else"),
        ]:
            assert to_diffusers(component, name, torch.zeros(1), 4) == []
