from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

from sdxl.files import COMPONENTS, SDXL_CONFIGS, BaseFiles, config
from sdxl.networks import empty_network
from sdxl.original import PREFIXES, to_diffusers, vae_levels
from sdxl.to_original import origins, unet_name
from tests.sdxl import name_table

REAL = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)
UNUSED = {"logit_scale", "text_model.embeddings.position_ids"}
"""In the published file, and in no network."""


def full_size(component: str) -> dict[str, torch.Tensor]:
    state = empty_network(REAL, component).state_dict()
    if component != "text_encoder":
        return state
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}


def written(component: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {o.name: o.combine([state[source] for source in o.sources]) for o in origins(component, state)}


class TestOrigins:
    @pytest.mark.parametrize("component", COMPONENTS)
    def test_are_the_tensors_of_the_published_file_name_by_name_and_shape_by_shape(self, component):
        found = {
            name.removeprefix(PREFIXES[component]): tuple(t.shape)
            for name, t in written(component, full_size(component)).items()
        }
        published = {name: shape for name, shape in name_table.of(component).items() if name not in UNUSED}
        assert found == published
        assert len(found) == {"unet": 1680, "vae": 248, "text_encoder": 196, "text_encoder_2": 389}[component]

    @pytest.mark.parametrize(
        ("component", "convert"), [("unet", convert_ldm_unet_checkpoint), ("vae", convert_ldm_vae_checkpoint)]
    )
    def test_diffusers_own_converter_takes_each_back_to_where_it_came_from(self, component, convert):
        state = {name: torch.tensor([[float(number)]]) for number, name in enumerate(full_size(component))}
        theirs = convert(written(component, state), config(REAL, component))
        assert theirs.keys() == state.keys()
        assert all(theirs[name].flatten() == tensor.flatten() for name, tensor in state.items())

    @pytest.mark.slow
    def test_diffusers_own_converter_unpacks_open_clip_to_where_it_came_from(self):
        network = empty_network(REAL, "text_encoder_2")
        rows = network.state_dict().items()
        state = {n: torch.full(t.shape[:1] + t.shape[1:2], float(i)) for i, (n, t) in enumerate(rows)}
        theirs = convert_open_clip_checkpoint(network, written("text_encoder_2", state), PREFIXES["text_encoder_2"])
        assert theirs.keys() == state.keys()
        assert all(torch.equal(theirs[name], tensor) for name, tensor in state.items())

    @pytest.mark.parametrize("component", COMPONENTS)
    def test_our_reader_undoes_them_exactly(self, component):
        state = full_size(component)
        originals = {name.removeprefix(PREFIXES[component]): t for name, t in written(component, state).items()}
        levels = vae_levels(originals)
        back = [pair for name, t in originals.items() for pair in to_diffusers(component, name, t, levels)]
        assert len(back) == len(state)
        assert {name: t.shape for name, t in back} == {name: t.shape for name, t in state.items()}

    def test_an_upsampler_is_second_in_line_where_its_block_has_no_attention(self):
        names = ["up_blocks.0.upsamplers.0.conv.weight", "up_blocks.1.upsamplers.0.conv.weight"]
        names.append("up_blocks.1.attentions.0.norm.weight")
        found = [origin.name.removeprefix(PREFIXES["unet"]) for origin in origins("unet", names)]
        assert found[:2] == ["output_blocks.2.1.conv.weight", "output_blocks.5.2.conv.weight"]

    @pytest.mark.parametrize(
        "name", ["down_blocks.0.resnets.2.conv1", "down_blocks.0.motion.0.x", "mid_block.resnets.2.conv1"]
    )
    def test_names_the_layout_has_no_place_for_are_refused(self, name):
        with pytest.raises(ValueError, match="no name for"):
            unet_name(name)
