from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from contracts.failures import PatinaError
from sdxl.adapter import AdapterModule, Modules
from sdxl.dialects import ADAPTER_METADATA, Adapter, Dialect, read, write
from sdxl.hashes import tail_hash

DIALECTS = get_args(Dialect)
LINEAR = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_out.0"
OTHER = "unet.mid_block.attentions.0.proj_in"
CONV = "unet.up_blocks.0.upsamplers.0.conv"
TEXT = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj"
TEXT_2 = "text_encoder_2.text_model.encoder.layers.1.mlp.fc1"


def module(
    rank: int, alpha: float, *, kernel: tuple[int, ...] = (), dora: bool = False, seed: int = 0
) -> AdapterModule:
    generator = torch.Generator().manual_seed(seed)
    ones = (1,) * len(kernel)
    return AdapterModule(
        torch.randn(rank, 6, *kernel, generator=generator),
        torch.randn(5, rank, *ones, generator=generator),
        alpha,
        torch.rand(5, generator=generator) if dora else None,
    )


def everything(*, dora: bool = False) -> Modules:
    """Linear layers and a convolution, of both text encoders too; ranks and alphas differ, none is the other."""
    return {
        LINEAR: module(4, 2.0, dora=dora),
        OTHER: module(8, 0.1, dora=dora, seed=1),
        CONV: module(3, 16.0, kernel=(3, 3), dora=dora, seed=2),
        TEXT: module(2, 1.0, seed=3),
        TEXT_2: module(2, 3.0, seed=4),
    }


def place(folder: Path, dialect: Dialect) -> Path:
    return folder / (f"{dialect}.safetensors" if dialect != "peft" else dialect)


def assert_same(found: Modules, expected: Modules) -> None:
    assert found.keys() == expected.keys()
    for name, one in expected.items():
        other = found[name]
        assert (other.alpha, other.rank) == (one.alpha, one.rank)
        assert torch.equal(other.down, one.down)
        assert torch.equal(other.up, one.up)
        assert (other.magnitude is None) == (one.magnitude is None)
        assert one.magnitude is None or torch.equal(other.magnitude, one.magnitude)


class TestIntegers:
    def test_an_alpha_may_be_one_as_diffusers_own_converter_writes_it(self, tmp_path: Path) -> None:
        kohya = convert_state_dict_to_kohya(
            {f"{LINEAR}.lora_A.weight": torch.ones(4, 6), f"{LINEAR}.lora_B.weight": torch.ones(5, 4)}
        )
        assert torch.int64 in {tensor.dtype for tensor in kohya.values()}
        save_file(kohya, tmp_path / "theirs.safetensors")
        assert read(tmp_path / "theirs.safetensors").modules[LINEAR].alpha == 4.0

    def test_a_weight_may_not(self, tmp_path: Path) -> None:
        tensors = {f"{LINEAR}.lora_A.weight": torch.ones(4, 6).int(), f"{LINEAR}.lora_B.weight": torch.ones(5, 4)}
        save_file(tensors, tmp_path / "whole.safetensors")
        with pytest.raises(PatinaError, match="holds I32, not floating-point numbers"):
            read(tmp_path / "whole.safetensors")


class TestWrite:
    @pytest.mark.parametrize("dora", [False, True])
    @pytest.mark.parametrize("dialect", DIALECTS)
    def test_comes_back_without_loss(self, tmp_path, dialect, dora):
        write(place(tmp_path, dialect), everything(dora=dora), {}, dialect)
        found = read(place(tmp_path, dialect))
        assert found.dialect == dialect
        assert_same(found.modules, everything(dora=dora))

    def test_a_round_through_all_dialects_ends_in_the_same_bytes(self, tmp_path):
        words = {"ss_output_name": "x", "ss_tag_frequency": '{"a": 1}', "modelspec.title": "ü", "patina.header": "{}"}
        start, end = tmp_path / "start.safetensors", tmp_path / "end.safetensors"
        write(start, everything(dora=True), words, "kohya")
        at = read(start)
        for dialect in ("peft", "diffusers", "peft", "kohya"):
            path = end if dialect == "kohya" else place(tmp_path / str(len(list(tmp_path.iterdir()))), dialect)
            write(path, at.modules, at.metadata, dialect)
            at = read(path)
        assert start.read_bytes() == end.read_bytes()
        assert words.items() <= at.metadata.items()

    def test_kohya_says_what_uis_look_for(self, tmp_path):
        path = tmp_path / "x.safetensors"
        write(path, everything(), {"ss_output_name": "mine", ADAPTER_METADATA: "{}", "format": "pt"}, "kohya")
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
        assert said["ss_base_model_version"].startswith("sdxl_")
        assert said["ss_output_name"] == "mine"
        assert (said["ss_network_dim"], said["ss_network_alpha"]) == ("4", "2")
        assert json.loads(said["ss_network_args"]) == {"conv_dim": "3", "conv_alpha": "16"}
        assert said["sshs_model_hash"] == tail_hash(path)
        assert said["modelspec.hash_sha256"] == "0x" + tail_hash(path)
        assert ADAPTER_METADATA not in said

    def test_the_legacy_hash_is_that_of_a_file_with_only_the_training_words(self, tmp_path):
        path = tmp_path / "x.safetensors"
        big = {LINEAR: AdapterModule(torch.randn(64, 6000), torch.randn(6, 64), 1.0)}
        write(path, big, {"ss_output_name": "mine", "modelspec.title": "t" * 5000}, "kohya")
        with safe_open(path, framework="pt") as file:
            said = file.metadata()
        copy = save(load_file(path), {key: value for key, value in said.items() if key.startswith("ss_")})
        assert len(copy) > 0x110000
        assert said["sshs_legacy_hash"] == hashlib.sha256(copy[0x100000:0x110000]).hexdigest()[:8]

    @pytest.mark.parametrize("dialect", ["diffusers", "peft"])
    def test_dora_on_a_part_of_a_component_is_refused_where_it_cannot_be_said(self, tmp_path, dialect):
        mixed = {LINEAR: module(4, 2.0, dora=True), OTHER: module(4, 2.0)}
        with pytest.raises(PatinaError, match="all or none"):
            write(place(tmp_path, dialect), mixed, {}, dialect)
        assert list(tmp_path.iterdir()) == []
        write(place(tmp_path, "kohya"), mixed, {}, "kohya")
        assert_same(read(place(tmp_path, "kohya")).modules, mixed)

    def test_a_layer_the_original_layout_lacks_has_no_name_of_kohyas(self, tmp_path):
        with pytest.raises(PatinaError, match="no name for"):
            write(
                tmp_path / "x.safetensors", {"unet.down_blocks.0.motion_modules.0.proj_in": module(4, 2.0)}, {}, "kohya"
            )

    def test_a_folder_that_is_there_stays_as_it_is(self, tmp_path):
        (tmp_path / "peft").mkdir()
        with pytest.raises(PatinaError, match="already there"):
            write(tmp_path / "peft", everything(), {}, "peft")


def diffusers_file(path: Path, settings: object, *, dora: bool = False) -> Adapter:
    state = {f"{OTHER}.lora_A.weight": torch.ones(4, 6), f"{OTHER}.lora_B.weight": torch.ones(5, 4)}
    if dora:
        state[f"{OTHER}.lora_magnitude_vector"] = torch.ones(5)
    save_file(state, path, {ADAPTER_METADATA: json.dumps(settings)})
    return read(path)


class TestReadDiffusers:
    @pytest.mark.parametrize(
        ("settings", "alpha"),
        [
            ({}, 4.0),
            ({"unet.lora_alpha": 8}, 8.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attentions.0.proj_in": 2}}, 2.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"ions.0.proj_in": 2}}, 8.0),
            ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"^attentions.0.proj_in": 2}}, 8.0),
            ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 16.0),
        ],
    )
    def test_means_by_its_settings_what_peft_means_by_them(self, tmp_path, settings, alpha):
        assert diffusers_file(tmp_path / "x.safetensors", settings).alphas == {OTHER: alpha}

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"unet.alpha_pattern": {"(a+)+$": 2}}, "plain module name"),
            ({"unet.alpha_pattern": [1]}, "cannot be read"),
            ({"unet.use_dora": True}, "use_dora"),
            ({"unet.bias": "all"}, "biases"),
            ({"unet.modules_to_save": ["conv_in"]}, "modules_to_save"),
        ],
    )
    def test_refuses_settings_it_cannot_follow(self, tmp_path, settings, words):
        with pytest.raises(PatinaError, match=words):
            diffusers_file(tmp_path / "x.safetensors", settings)

    @pytest.mark.parametrize(
        ("spelling", "name"),
        [
            (f"{LINEAR}.lora.@.weight", LINEAR),
            (LINEAR.replace(".to_out.0", ".processor.to_out_lora.@.weight"), LINEAR),
            (f"{TEXT}.lora_linear_layer.@.weight", TEXT),
            (f"{TEXT.replace('.text_model', '')}.lora_@.weight", TEXT),
        ],
    )
    def test_knows_what_older_versions_wrote(self, tmp_path, spelling, name):
        down, up = ("A", "B") if "lora_@" in spelling else ("down", "up")
        save_file(
            {spelling.replace("@", down): torch.ones(4, 6), spelling.replace("@", up): torch.ones(5, 4)},
            tmp_path / "x.safetensors",
        )
        assert read(tmp_path / "x.safetensors").modules.keys() == {name}


class TestReadFolder:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{", "cannot be read"),
            ("[]", "cannot be read"),
            ('{"peft_type": "LOHA"}', "LOHA"),
            ("[" * 100_000, "cannot be read"),
        ],
    )
    def test_refuses_a_config_it_cannot_follow(self, tmp_path, text, words):
        write(tmp_path / "peft", {OTHER: module(4, 2.0)}, {}, "peft")
        (tmp_path / "peft" / "unet" / "adapter_config.json").write_text(text)
        with pytest.raises(PatinaError, match=words):
            read(tmp_path / "peft")

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        with pytest.raises(PatinaError, match="adapter_config"):
            read(tmp_path)
