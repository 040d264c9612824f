from __future__ import annotations

import pytest

from sdxl.readers import misreadings

ATTENTION, PROJECTION = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q", "unet.mid_block.proj_in"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
PLAIN = {ATTENTION: 2.0, PROJECTION: 2.0, TEXT: 1.0}


class TestMisreadings:
    def test_of_kohyas_form_there_are_none_with_one_alpha_a_component(self):
        assert misreadings(PLAIN, "kohya", dora=False) == []

    def test_speak_of_dora_and_of_differing_alphas_in_kohyas_form(self):
        (dora,) = misreadings(PLAIN, "kohya", dora=True)
        assert "dora_scale" in dora
        (alphas,) = misreadings(PLAIN | {PROJECTION: 3.0}, "kohya", dora=False)
        assert "most common alpha" in alphas

    def test_are_none_where_attention_has_the_most_common_alpha(self):
        many = {f"{ATTENTION}.{n}": 2.0 for n in range(3)}
        assert misreadings(PLAIN | many | {PROJECTION: 3.0}, "kohya", dora=False) == []
        for lost in ({f"{ATTENTION}.0": 3.0}, {f"{TEXT}.0": 3.0}, {f"{PROJECTION}.{n}": 3.0 for n in range(5)}):
            assert misreadings(PLAIN | many | lost, "kohya", dora=False) != []

    @pytest.mark.parametrize("dora", [False, True])
    def test_speak_of_the_attention_layers_that_comfyui_leaves_out_of_diffusers_form(self, dora):
        (comfyui,) = misreadings(PLAIN, "diffusers", dora=dora)
        assert "none of the UNet's attention layers" in comfyui
        assert misreadings({PROJECTION: 2.0, TEXT: 1.0}, "diffusers", dora=dora) == []

    def test_of_a_peft_folder_there_are_none(self):
        assert misreadings(PLAIN | {PROJECTION: 3.0}, "peft", dora=True) == []
