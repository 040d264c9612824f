from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contracts.failures import FailureCode, PatinaError
from sdxl.base import describe, load_base
from sdxl.files import few_steps, open_base

NETWORKS = ("unet", "vae", "text_encoder", "text_encoder_2")


def refusal(path: Path) -> str:
    with pytest.raises(PatinaError) as caught:
        describe(path)
    assert caught.value.code is FailureCode.BASE_UNREADABLE
    return caught.value.message


class TestLoadBase:
    def test_gives_frozen_networks_in_the_asked_dtype_and_the_vae_in_fp32(self, tiny_base):
        base = load_base(tiny_base, dtype=torch.bfloat16)
        assert {p.dtype for p in base.unet.parameters()} == {torch.bfloat16}
        assert {p.dtype for p in base.text_encoder.parameters()} == {torch.bfloat16}
        assert {p.dtype for p in base.vae.parameters()} == {torch.float32}
        for name in NETWORKS:
            network = getattr(base, name)
            assert not network.training
            assert not any(p.requires_grad or p.is_meta for p in network.parameters())
        assert (base.native_px, base.vae_factor, base.latent_channels) == (64, 8, 4)
        assert base.force_zeros_for_empty_prompt is True

    def test_loads_only_what_is_asked_for(self, tiny_base):
        base = load_base(tiny_base, dtype=torch.float32, components={"vae"})
        assert base.vae is not None
        assert base.unet is base.text_encoder is base.tokenizer is None

    def test_leaves_the_global_generator_alone(self, tiny_base):
        before = torch.get_rng_state()
        load_base(tiny_base, dtype=torch.float32)
        assert torch.equal(torch.get_rng_state(), before)

    def test_loads_a_single_file_as_it_loads_the_folder(self, tiny_base, tiny_single_file):
        folder = load_base(tiny_base, dtype=torch.float32)
        single = load_base(tiny_single_file, dtype=torch.float32, config_dir=tiny_base)
        for name in NETWORKS:
            theirs = getattr(folder, name).state_dict()
            ours = getattr(single, name).state_dict()
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)

    def test_reads_the_prediction_type_of_either_layout(self, tiny_base, tiny_single_file, tmp_path):
        marked = tmp_path / "marked.safetensors"
        for marks, way in (({"v_pred"}, ("v_prediction", False)), ({"v_pred", "ztsnr"}, ("v_prediction", True))):
            save_file(dict.fromkeys(marks, torch.zeros(0)) | load_file(tiny_single_file), marked)
            found = load_base(marked, dtype=torch.float32, components=set(), config_dir=tiny_base)
            assert found.denoising == way
            assert found.prediction_type == "v_prediction"
        assert load_base(tiny_base, dtype=torch.float32, components=set()).prediction_type == "epsilon"

    def test_reads_the_prediction_type_modelspec_names(self, tiny_base, tiny_single_file, tmp_path):
        save_file(load_file(tiny_single_file), tmp_path / "v.safetensors", {"modelspec.prediction_type": "v"})
        found = load_base(tmp_path / "v.safetensors", dtype=torch.float32, components=set(), config_dir=tiny_base)
        assert found.prediction_type == "v_prediction"


class TestFewSteps:
    @pytest.mark.parametrize(
        ("name", "word"),
        [
            ("sd_xl_turbo_1.0_fp16", "turbo"),
            ("sdxl_lightning_4step", "lightning"),
            ("dreamXL-DMD2", "DMD2"),
            ("LCM-sdxl", "LCM"),
            ("turbofan", None),
            ("hyperion", None),
            ("sd_xl_base_1.0", None),
        ],
    )
    def test_is_told_from_the_name(self, tiny_single_file, tmp_path, name, word):
        path = tmp_path / f"{name}.safetensors"
        path.hardlink_to(tiny_single_file)
        assert few_steps(open_base(path)) == word

    def test_is_told_from_what_the_file_or_the_folder_calls_itself(self, tiny_base, tiny_single_file, tmp_path):
        save_file(load_file(tiny_single_file), tmp_path / "x.safetensors", {"modelspec.title": "Some Lightning"})
        assert few_steps(open_base(tmp_path / "x.safetensors")) == "Lightning"
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        index = json.loads((folder / "model_index.json").read_text()) | {"_name_or_path": "someone/sdxl-turbo"}
        (folder / "model_index.json").write_text(json.dumps(index))
        assert few_steps(open_base(folder)) == "turbo"


class TestDescribe:
    def test_tells_what_the_catalog_keeps(self, tiny_base, known_shapes):
        found = describe(tiny_base, cache_dir=known_shapes)
        assert (found.family, found.native_px, found.vae_factor, found.latent_channels) == ("sdxl", 64, 8, 4)
        assert len(found.identity) == len(found.vae_identity) == 64
        unet = load_base(tiny_base, dtype=torch.float32, components={"unet"}).unet
        assert found.profile.unet_parameters == sum(p.numel() for p in unet.parameters())

    def test_refuses_what_is_not_there_and_what_is_pickled(self, tmp_path):
        assert "no folder or file" in refusal(tmp_path / "missing")
        (tmp_path / "model.ckpt").write_bytes(b"\x80\x04")
        assert "never opened" in refusal(tmp_path / "model.ckpt")

    def test_refuses_a_truncated_file(self, tiny_single_file, tmp_path):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(tiny_single_file.read_bytes()[:-100])
        assert "not a readable safetensors file" in refusal(cut)

    @pytest.mark.parametrize(
        ("key", "words"),
        [
            ("double_blocks.0.img_attn.qkv.weight", "Flux"),
            ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "Stable Diffusion 1"),
            ("lora_unet_x.lora_up.weight", "a LoRA"),
            ("lora_unet_x.hada_w1_a", "a LoHa"),
            ("joint_blocks.0.context_block.attn.qkv.weight", "Stable Diffusion 3"),
            ("down_blocks.0.resnets.0.conv1.weight", "a UNet alone"),
            ("clip_g", "a textual inversion"),
            ("conditioner.embedders.0.model.ln_final.weight", "refiner"),
            ("weight", "no whole SDXL checkpoint"),
        ],
    )
    def test_says_what_a_foreign_single_file_seems_to_be(self, tmp_path, key, words):
        save_file({key: torch.zeros(1)}, tmp_path / "foreign.safetensors")
        assert words in refusal(tmp_path / "foreign.safetensors")

    def test_refuses_a_folder_of_another_family_before_its_weights_are_read(self, tmp_path):
        (tmp_path / "unet").mkdir()
        (tmp_path / "unet" / "config.json").write_text("{}")
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
        assert "StableDiffusionPipeline" in refusal(tmp_path)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"addition_embed_type": None}, "text_time"),
            ({"in_channels": 9}, "inpainting"),
            ({"time_cond_proj_dim": 256}, "a latent consistency model"),
        ],
    )
    def test_refuses_a_unet_of_another_kind(self, tiny_base, tmp_path, changes, words):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        assert words in refusal(folder)

    @pytest.mark.parametrize(
        ("key", "words"),
        [("model.diffusion_model.time_embed.cond_proj.weight", "latent consistency"), ("edm_mean", "EDM's noise")],
    )
    def test_refuses_a_whole_file_that_is_sdxl_in_shape_alone(self, tiny_single_file, tmp_path, key, words):
        save_file({key: torch.zeros(1)} | load_file(tiny_single_file), tmp_path / "file.safetensors")
        assert words in refusal(tmp_path / "file.safetensors")

    def test_refuses_a_folder_on_another_noise(self, tiny_base, tmp_path):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        index = json.loads((folder / "model_index.json").read_text())
        index["scheduler"] = ["diffusers", "EDMDPMSolverMultistepScheduler"]
        (folder / "model_index.json").write_text(json.dumps(index))
        assert "EDM's noise" in refusal(folder)

    def test_says_which_weights_are_missing(self, tiny_base, tmp_path):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        assert "vae/diffusion_pytorch_model.safetensors" in refusal(folder)

    def test_says_when_weights_do_not_fit_their_config(self, tiny_base, tmp_path):
        folder = tmp_path / "base"
        shutil.copytree(tiny_base, folder)
        save_file({"conv_in.weight": torch.zeros(1)}, folder / "unet" / "diffusion_pytorch_model.safetensors")
        with pytest.raises(PatinaError, match=r"conv_in\.weight has shape"):
            load_base(folder, dtype=torch.float32, components={"unet"})
