from __future__ import annotations

import pytest
import torch
from torch import nn

from contracts.failures import PatinaError
from sdxl.adapter import AdapterModule
from sdxl.files import SDXL_CONFIGS, BaseFiles
from sdxl.kohya import from_kohya, kohya_name, module_name, to_kohya
from sdxl.lora import target_modules
from sdxl.networks import empty_network
from tests.sdxl import name_table

REAL = BaseFiles(SDXL_CONFIGS, SDXL_CONFIGS, SDXL_CONFIGS, single_file=False)
CLIP_PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
MODULE = "unet.down_blocks.1.attentions.0.proj_in"
WORD = "lora_unet_input_blocks_4_1_proj_in"


def full_size() -> dict[str, tuple[int, ...]]:
    """Weight shape of each module kohya's trainer adapts, by our names."""
    found = {}
    for name, module in target_modules(empty_network(REAL, "unet"), "attn-ff").items():
        found[f"unet.{name}"] = tuple(module.weight.shape)
    for component in ("text_encoder", "text_encoder_2"):
        for name, module in empty_network(REAL, component).named_modules():
            if isinstance(module, nn.Linear) and name.endswith(CLIP_PARTS):
                found[f"{component}.text_model.{name.removeprefix('text_model.')}"] = tuple(module.weight.shape)
    return found


def published() -> dict[str, tuple[int, ...]]:
    """The same under kohya's words, from the names and shapes of the published single file alone."""
    found = {}
    for name, shape in name_table.of("unet").items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == 2 and (".transformer_blocks." in stem or ".proj_" in stem):
            found["lora_unet_" + stem.replace(".", "_")] = shape
    for name, shape in name_table.of("text_encoder").items():
        stem, _, kind = name.rpartition(".")
        if kind == "weight" and stem.endswith(CLIP_PARTS):
            found["lora_te1_" + stem.replace(".", "_")] = shape
    open_clip = {
        "attn.out_proj.weight": "self_attn_out_proj",
        "mlp.c_fc.weight": "mlp_fc1",
        "mlp.c_proj.weight": "mlp_fc2",
    }
    for name, shape in name_table.of("text_encoder_2").items():
        if not name.startswith("transformer.resblocks."):
            continue
        number, _, part = name.removeprefix("transformer.resblocks.").partition(".")
        layer = f"lora_te2_text_model_encoder_layers_{number}"
        if part == "attn.in_proj_weight":
            found |= {f"{layer}_self_attn_{side}_proj": (shape[0] // 3, shape[1]) for side in "qkv"}
        elif part in open_clip:
            found[f"{layer}_{open_clip[part]}"] = shape
    return found


class TestNames:
    def test_are_the_published_files_at_full_size_with_the_same_shapes(self):
        ours = {kohya_name(name): shape for name, shape in full_size().items()}
        assert ours == published()
        counts = [sum(word.startswith(start) for word in ours) for start in ("lora_unet_", "lora_te1_", "lora_te2_")]
        assert counts == [722, 72, 192]

    def test_lead_back_for_every_layer_a_lora_can_act_on(self):
        unet = empty_network(REAL, "unet")
        layers = [n for n, module in unet.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
        names = [*full_size(), *(f"unet.{name}" for name in layers), "text_encoder_2.text_projection"]
        assert len(layers) == 794
        assert [module_name(kohya_name(name)) for name in names] == names
        convolutions = {
            "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
            for name, shape in name_table.of("unet").items()
            if len(shape) == 4
        }
        assert convolutions <= {kohya_name(f"unet.{name}") for name in layers}

    def test_with_diffusers_block_names_are_understood_too(self):
        assert module_name("lora_unet_down_blocks_1_attentions_0_proj_in") == MODULE == module_name(WORD)

    @pytest.mark.parametrize(
        "word",
        [
            "lora_te_text_model_encoder_layers_0_mlp_fc1",
            "lora_unet_double_blocks_0_img_attn_qkv",
            "lora_unet_input_blocks_x",
            "lora_unet_",
        ],
    )
    def test_of_other_families_are_refused(self, word):
        with pytest.raises(PatinaError, match="no layer of SDXL"):
            module_name(word)


def state(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = {"lora_down.weight": torch.ones(4, 6), "lora_up.weight": torch.ones(5, 4), "alpha": torch.tensor(2.0)}
    return {f"{WORD}.{part.replace('__', '.')}": tensor for part, tensor in (parts | changes).items()}


class TestFromKohya:
    def test_takes_alpha_as_it_is_and_the_rank_where_there_is_none_or_nought(self):
        assert from_kohya(state())[MODULE].alpha == 2
        assert from_kohya(state(alpha=torch.tensor(0.0)))[MODULE].alpha == 4
        bare = {key: tensor for key, tensor in state().items() if not key.endswith("alpha")}
        assert from_kohya(bare)[MODULE].alpha == 4

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"hada_w1_a": torch.ones(1)}, "LoHa"),
            ({"lokr_w1": torch.ones(1)}, "LoKr"),
            ({"lora_mid__weight": torch.ones(1)}, "Tucker"),
            ({"dora_scale": torch.ones(1, 6)}, "over inputs"),
            ({"alpha": torch.tensor(float("nan"))}, "alpha is nan"),
            ({"alpha": torch.tensor(-1.0)}, "alpha is -1"),
            ({"lora_up__weight": torch.ones(5, 3)}, "rank 4 and 3"),
        ],
    )
    def test_refuses_what_it_would_get_wrong(self, changes, words):
        with pytest.raises(PatinaError, match=words):
            from_kohya(state(**changes))

    def test_refuses_one_layer_under_two_names(self):
        twice = {key.replace(WORD, "lora_unet_down_blocks_1_attentions_0_proj_in"): t for key, t in state().items()}
        with pytest.raises(PatinaError, match="twice"):
            from_kohya(state() | twice)


class TestToKohya:
    def test_has_one_magnitude_a_row_so_that_it_is_known_to_be_of_the_outputs(self):
        square = AdapterModule(torch.ones(4, 6), torch.ones(6, 4), 2.0, torch.ones(6))
        conv = AdapterModule(torch.ones(4, 6, 3, 3), torch.ones(5, 4, 1, 1), 2.0, torch.ones(5))
        assert to_kohya({MODULE: square})[f"{WORD}.dora_scale"].shape == (6, 1)
        found = to_kohya({"unet.conv_in": conv})["lora_unet_input_blocks_0_0.dora_scale"]
        assert found.shape == (5, 1, 1, 1)
