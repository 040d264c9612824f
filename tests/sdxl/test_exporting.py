from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import infer_diffusers_model_type
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.random_sdxl import TINY, write_base
from contracts.failures import FailureCode, PatinaError
from sdxl import files as base_files
from sdxl.base import identity
from sdxl.exporting import export_folder, export_single_file, open_whole
from sdxl.files import COMPONENTS, open_base
from sdxl.full import save_full
from sdxl.hashes import tail_hash
from tests.sdxl import name_table
from tests.sdxl.conftest import make_header

FULL = {"method": "full", "rank": None, "alpha": None, "targets": None}


def tensors(path: Path, config_dir: Path | None = None) -> dict[str, torch.Tensor]:
    files = open_base(path, config_dir=config_dir)
    return {f"{part}.{name}": t for part in COMPONENTS for name, t in base_files.tensors(files, part)}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def fine_tune(tiny_base: Path, tmp_path: Path) -> Path:
    """A full fine-tune of the UNet and one text encoder, as the trainer leaves it."""
    moved = {
        key: tensor.float() + 0.01
        for key, tensor in tensors(tiny_base).items()
        if key.startswith(("unet.", "text_encoder."))
    }
    path = tmp_path / "weights" / "tiny.safetensors"
    save_full(path, moved, make_header(base_identity=identity(tiny_base)[0], **FULL))
    return path


class TestRoundTrip:
    def test_folder_to_single_file_to_folder_gives_the_same_tensors_and_the_same_base(self, tiny_base, tmp_path):
        single, folder = tmp_path / "one.safetensors", tmp_path / "again"
        export_single_file(open_whole(open_base(tiny_base)), single)
        export_folder(open_whole(open_base(single, config_dir=tiny_base)), folder)
        assert_equal(tensors(single, tiny_base), tensors(tiny_base))
        assert_equal(tensors(folder), tensors(tiny_base))
        assert identity(folder) == identity(single, config_dir=tiny_base) == identity(tiny_base)
        with safe_open(single, framework="pt") as file:
            assert file.metadata()["modelspec.hash_sha256"] == "0x" + tail_hash(single)

    def test_the_same_file_is_written_from_either(self, tiny_base, tiny_single_file, tmp_path):
        export_single_file(open_whole(open_base(tiny_base)), tmp_path / "a.safetensors")
        export_single_file(open_whole(open_base(tiny_single_file, config_dir=tiny_base)), tmp_path / "b.safetensors")
        assert tail_hash(tmp_path / "a.safetensors") == tail_hash(tmp_path / "b.safetensors")


class TestFineTune:
    def test_loads_in_the_stock_pipeline_from_the_file_and_from_the_folder(self, tmp_path, monkeypatch):
        # The text encoders differ in width as SDXL's do: diffusers tells them apart in a single file by it.
        wider = TINY["text_encoder_2"] | {"hidden_size": 48, "projection_dim": 48}
        fed = TINY["unet"] | {"cross_attention_dim": 32 + 48, "projection_class_embeddings_input_dim": 48 + 6 * 8}
        monkeypatch.setitem(TINY, "text_encoder_2", wider)
        monkeypatch.setitem(TINY, "unet", fed)
        folder = tmp_path / "base"
        write_base(folder, size="tiny", dtype=torch.float16)
        base = tensors(folder)
        trained = {
            key: tensor.float() + 0.01 for key, tensor in base.items() if key.startswith(("unet.", "text_encoder."))
        }
        save_full(tmp_path / "full.safetensors", trained, make_header(base_identity=identity(folder)[0], **FULL))
        whole = open_whole(open_base(folder), tmp_path / "full.safetensors")
        export_single_file(whole, tmp_path / "one.safetensors", torch.float32)
        export_folder(whole, tmp_path / "folder", torch.float32)
        pipes = [
            StableDiffusionXLPipeline.from_single_file(
                tmp_path / "one.safetensors", config=str(folder), local_files_only=True, dtype=torch.float32
            ),
            StableDiffusionXLPipeline.from_pretrained(tmp_path / "folder", dtype=torch.float32),
        ]
        for pipe in pipes:
            for part in COMPONENTS:
                state = getattr(pipe, part).state_dict()
                assert len(state) == sum(key.startswith(f"{part}.") for key in base)
                for name, tensor in state.items():
                    plain = f"{part}.{name}"
                    key = plain if plain in base else f"{part}.text_model.{name}"
                    assert torch.equal(tensor, trained.get(key, base[key].float())), key

    def test_keeps_what_it_was_trained_as_and_says_what_it_is(self, tiny_base, fine_tune, tmp_path):
        export_single_file(open_whole(open_base(tiny_base), fine_tune), tmp_path / "one.safetensors")
        with safe_open(tmp_path / "one.safetensors", framework="pt") as file:
            said = file.metadata()
            assert file.get_slice("model.diffusion_model.out.2.weight").get_dtype() == "F32"
            assert file.get_slice("first_stage_model.decoder.conv_in.weight").get_dtype() == "F16"
        assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base"
        assert said["modelspec.title"] == "tiny"

    def test_of_velocity_is_marked_where_each_loader_looks(self, tiny_base, fine_tune, tmp_path):
        header = make_header(
            base_identity=identity(tiny_base)[0], prediction_type="v_prediction", zero_terminal_snr=True, **FULL
        )
        save_full(fine_tune, load_file(fine_tune), header)
        whole = open_whole(open_base(tiny_base), fine_tune)
        export_single_file(whole, tmp_path / "one.safetensors")
        export_folder(whole, tmp_path / "folder")
        single = load_file(tmp_path / "one.safetensors")
        assert single["v_pred"].numel() == single["ztsnr"].numel() == 0
        schedule = json.loads((tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text())
        assert (schedule["prediction_type"], schedule["rescale_betas_zero_snr"]) == ("v_prediction", True)
        export_folder(open_whole(open_base(tmp_path / "one.safetensors", config_dir=tiny_base)), tmp_path / "back")
        back = json.loads((tmp_path / "back" / "scheduler" / "scheduler_config.json").read_text())
        assert back["prediction_type"] == "v_prediction"

    def test_leaves_out_folders_that_lie_among_a_tokenizers_files(self, tiny_base, tmp_path):
        base = tmp_path / "base"
        shutil.copytree(tiny_base, base)
        (base / "tokenizer" / ".cache").mkdir()
        export_folder(open_whole(open_base(base)), tmp_path / "out")
        assert {path.name for path in (tmp_path / "out" / "tokenizer").iterdir()} == {
            path.name for path in (tiny_base / "tokenizer").iterdir()
        }

    def test_of_another_base_is_refused_before_anything_is_written(self, tiny_base, fine_tune, tmp_path):
        save_full(fine_tune, load_file(fine_tune), make_header(**FULL))
        with pytest.raises(PatinaError) as caught:
            open_whole(open_base(tiny_base), fine_tune)
        assert caught.value.code is FailureCode.BASE_MISMATCH

    def test_of_another_shape_is_refused(self, tiny_base, fine_tune):
        save_file({"conv_in.weight": torch.ones(1)}, fine_tune)
        with pytest.raises(PatinaError, match="differ from the base's unet"):
            open_whole(open_base(tiny_base), fine_tune)

    def test_numbers_fp16_cannot_hold_stop_the_export_and_leave_nothing(self, tiny_base, fine_tune, tmp_path):
        state = load_file(fine_tune)
        state["unet.conv_in.bias"] += 1e6
        save_full(fine_tune, state, make_header(base_identity=identity(tiny_base)[0], **FULL))
        whole = open_whole(open_base(tiny_base), fine_tune)
        with pytest.raises(PatinaError, match="no finite numbers"):
            export_folder(whole, tmp_path / "folder", torch.float16)
        with pytest.raises(PatinaError, match="no finite numbers"):
            export_single_file(whole, tmp_path / "one.safetensors", torch.float16)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]

    def test_a_base_with_other_block_lengths_has_no_single_file(self, tiny_base, tmp_path):
        shutil.copytree(tiny_base, tmp_path / "base")
        config = tmp_path / "base" / "unet" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": 3}))
        with pytest.raises(PatinaError, match="layers a block"):
            export_single_file(open_whole(open_base(tmp_path / "base")), tmp_path / "one.safetensors")


class TestDetection:
    def test_diffusers_takes_the_full_size_names_for_sdxl(self):
        found = {name: torch.empty(shape, device="meta") for name, shape in name_table.tensors().items()}
        assert infer_diffusers_model_type(found) == "xl_base"
