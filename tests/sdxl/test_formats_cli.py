from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from sdxl.dialects import read
from sdxl.formats import main, save_adapter, save_full
from sdxl.hashes import file_hash, tail_hash
from tests.sdxl.conftest import make_header

MODULE = "unet.down_blocks.1.attentions.0.proj_in"
STATE = {f"{MODULE}.lora_A.weight": torch.ones(4, 6), f"{MODULE}.lora_B.weight": torch.ones(5, 4)}


@pytest.fixture
def lora(tmp_path):
    path = tmp_path / "mine.safetensors"
    save_adapter(path, STATE, make_header())
    return path


class TestConvert:
    def test_goes_through_every_dialect_and_keeps_alpha_and_header(self, lora, tmp_path, capsys):
        kohya, peft, back = tmp_path / "k.safetensors", tmp_path / "peft", tmp_path / "b.safetensors"
        for source, target, dialect in ((lora, kohya, "kohya"), (kohya, peft, "peft"), (peft, back, "diffusers")):
            assert main(["convert", str(source), str(target), "--dialect", dialect]) == 0
            assert f"1 modules, {read(source).dialect} → {dialect}" in capsys.readouterr().out
        assert read(kohya).alphas == {MODULE: 2.0}
        assert read(back).header == make_header()
        assert tail_hash(back) == tail_hash(lora)

    def test_says_when_stock_loaders_will_misread_it(self, tmp_path, capsys):
        path = tmp_path / "dora.safetensors"
        save_adapter(path, STATE | {f"{MODULE}.lora_magnitude_vector": torch.ones(5)}, make_header())
        assert main(["convert", str(path), str(tmp_path / "k.safetensors"), "--dialect", "kohya"]) == 0
        assert "note: DoRA in kohya's form" in capsys.readouterr().out

    def test_never_writes_over_a_file_unasked(self, lora, tmp_path, capsys):
        target = tmp_path / "there.safetensors"
        target.write_bytes(b"mine")
        assert main(["convert", str(lora), str(target), "--dialect", "kohya"]) == 1
        assert "--force" in capsys.readouterr().err
        assert target.read_bytes() == b"mine"
        assert main(["convert", str(lora), str(target), "--dialect", "kohya", "--force"]) == 0
        assert read(target).dialect == "kohya"

    def test_of_a_full_fine_tune_names_the_command_for_it(self, tmp_path, capsys):
        save_file({"conv_in.weight": torch.ones(1)}, tmp_path / "full.safetensors")
        words = ["convert", str(tmp_path / "full.safetensors"), str(tmp_path / "y"), "--dialect", "kohya"]
        assert main(words) == 1
        assert "`python -m sdxl.formats export-full`" in capsys.readouterr().err

    def test_explains_what_it_cannot_read(self, tmp_path, capsys):
        (tmp_path / "x.safetensors").write_bytes(b"PK\x03\x04 and so on")
        assert main(["convert", str(tmp_path / "x.safetensors"), str(tmp_path / "y"), "--dialect", "kohya"]) == 1
        assert "error: The weights cannot be used. x.safetensors is not a readable" in capsys.readouterr().err
        assert not (tmp_path / "y").exists()


class TestInspect:
    def test_shows_modules_ranks_alphas_base_and_hashes(self, lora, capsys):
        assert main(["inspect", str(lora)]) == 0
        shown = capsys.readouterr().out
        text = "".join(shown.split())
        for words in (
            "LoRAindiffusers'sdialect",
            "a" * 64,
            "tok",
            file_hash(lora)[:10],
            tail_hash(lora)[:12],
            "agree",
        ):
            assert words in text
        assert ["unet", "1", "1", "0", "0", "4", "2", "44"] in [line.split() for line in shown.splitlines()]

    def test_shows_what_a_header_says_as_it_is(self, tmp_path, capsys):
        header = make_header().model_copy(update={"strength_pattern": {"*.to_[qk]": 0.5, "mid_block.[/x]": 2}})
        save_adapter(tmp_path / "x.safetensors", STATE, header)
        assert main(["inspect", str(tmp_path / "x.safetensors")]) == 0
        assert "*.to_[qk] at 0.5, mid_block.[/x] at 2" in capsys.readouterr().out

    def test_finds_a_hash_that_is_not_so(self, tmp_path, capsys):
        save_file(STATE, tmp_path / "x.safetensors", {"sshs_model_hash": "0" * 64})
        assert main(["inspect", str(tmp_path / "x.safetensors"), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["hash_problem"] == "sshs_model_hash says another hash than the tensors have"
        assert found["components"][0]["alphas"] == [4.0]

    def test_tells_full_fine_tunes_checkpoints_and_other_things_apart(self, tiny_single_file, tmp_path, capsys):
        header = make_header(method="full", rank=None, alpha=None, targets=None)
        save_full(tmp_path / "full.safetensors", {"conv_in.weight": torch.ones(2)}, header)
        save_file({"double_blocks.0.x": torch.ones(1)}, tmp_path / "flux.safetensors")
        assert main(["inspect", str(tmp_path / "full.safetensors")]) == 0
        assert "full fine-tune: unet (1 tensors)" in capsys.readouterr().out
        assert main(["inspect", str(tiny_single_file)]) == 0
        assert "SDXL checkpoint: unet" in capsys.readouterr().out
        assert main(["inspect", str(tmp_path / "flux.safetensors")]) == 1
        assert "a Flux model" in capsys.readouterr().err


class TestExportFull:
    def test_writes_both_forms_with_one_command(self, tiny_base, tmp_path, capsys):
        weights = tmp_path / "full.safetensors"
        save_file({"conv_in.weight": torch.ones(1)}, weights)
        out = ["--single-file", str(tmp_path / "one.safetensors"), "--folder", str(tmp_path / "folder")]
        assert main(["export-full", str(weights), "--base", str(tiny_base), *out]) == 1
        assert "differ from the base's unet" in capsys.readouterr().err
        assert main(["export-full", str(weights), "--base", str(tiny_base)]) == 1
        assert "--single-file FILE, --folder DIR" in capsys.readouterr().err

    def test_never_writes_over_a_file_unasked(self, tiny_base, tmp_path, capsys):
        unet = tiny_base / "unet" / "diffusion_pytorch_model.safetensors"
        target = tmp_path / "one.safetensors"
        target.write_bytes(b"mine")
        words = ["export-full", str(unet), "--base", str(tiny_base), "--single-file", str(target)]
        assert main([*words, "--folder", str(tmp_path / "folder")]) == 1
        assert "--force" in capsys.readouterr().err
        assert target.read_bytes() == b"mine"
        assert not (tmp_path / "folder").exists()
        assert main([*words, "--force", "--cache-dir", str(tmp_path)]) == 0
        assert target.stat().st_size > len(b"mine")

    @pytest.mark.parametrize("dialect", ["kohya", "diffusers"])
    def test_of_a_lora_says_that_it_is_one_and_what_to_do_with_it(self, lora, dialect, tiny_base, tmp_path, capsys):
        path, out = tmp_path / "lora.safetensors", tmp_path / "folder"
        assert main(["convert", str(lora), str(path), "--dialect", dialect]) == 0
        assert main(["export-full", str(path), "--base", str(tiny_base), "--folder", str(out)]) == 1
        said = capsys.readouterr().err
        assert "lora.safetensors is a LoRA" in said
        assert "formats convert" in said
        assert not out.exists()
