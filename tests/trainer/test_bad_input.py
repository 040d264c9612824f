"""What people get wrong, one test each: a failure code, the reason, a hint, and no weight is read for it.

A full disk is in test_room.py, a loss that is no number in test_run.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import sdxl.networks
import trainer.parts
import trainer.planning
from contracts.rundir import Failed, RunDir
from sdxl.base import identity
from tests.trainer.tiny import make_pictures, make_recipe, outcome_of, train
from trainer.cli import main


@pytest.fixture(autouse=True)
def no_weight_is_read(base_dir: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would read tensors of a base, or encode with it, ends the run otherwise than these tests expect.

    The base was used before: what it is called is known by its file's hash.
    """
    identity(base_dir, cache_dir=cache_dir / "identities")

    def read(*arguments: object, **named: object) -> None:
        raise RuntimeError("a weight is read")

    for name in ("load_trainable", "cached_latents", "cached_texts"):
        monkeypatch.setattr(trainer.parts, name, read)
    monkeypatch.setattr(sdxl.networks.base_files, "tensors", read)


@pytest.fixture
def refused(base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Train what is wrong in a folder that is there, as the worker lays it out: the outcome, and all that was said."""

    def refused(*words: str, base: Path = base_dir, data: Path = pictures, **changes: Any) -> tuple[Failed, str]:
        recipe = make_recipe(tmp_path / "recipe.yaml", base, data, **changes)
        RunDir(tmp_path / "run").root.mkdir()
        assert train(recipe, tmp_path / "run", cache_dir, *words) == 1
        outcome = outcome_of(tmp_path / "run")
        assert isinstance(outcome, Failed)
        assert outcome.hint
        said = "".join(capsys.readouterr())
        for shown in (f"({outcome.code})", outcome.hint):
            assert shown in said
        return outcome, said

    return refused


class TestSettings:
    def test_an_unknown_one(self, refused: Any) -> None:
        outcome, said = refused("lora.rnak=4", learning_rate=1e-4)
        assert outcome.code == "invalid_input"
        assert "lora.rnak: there is no such setting; did you mean lora.rank?" in said
        assert "learning_rate: there is no such setting; did you mean optimizer.learning_rate?" in said

    def test_one_of_another_type(self, refused: Any) -> None:
        outcome, said = refused("data.flip='False'", "steps=ten")
        assert outcome.code == "invalid_input"
        assert 'data.flip: must be true or false, not "False"' in said
        assert 'steps: must be a whole number, not "ten"' in said

    def test_ones_that_exclude_each_other(self, refused: Any) -> None:
        outcome, said = refused("method=full", "quantize=nf4", "full.fused_backward=true")
        assert outcome.code == "invalid_input"
        for setting in ("quantize", "gradient_accumulation_steps", "optimizer.max_grad_norm"):
            assert f"  {setting}: must be " in said

    def test_all_of_these_and_what_is_not_there_at_once(self, refused: Any) -> None:
        outcome, _ = refused(
            "--dataset-dir", "/no/data", "data.flip='False'", "lora.rnak=4", "optimizer.warmup_steps=9", "quantize=nf4",
            "method=full",
        )  # fmt: skip
        for words in (
            "/data/flip: must be",
            "/lora/rnak: there is no",
            "/optimizer/warmup_steps: the warm-up of 9 steps must be below steps (6)",
            "/quantize: must be null",
            "--dataset-dir /no/data does not exist",
        ):
            assert words in outcome.message


class TestTheData:
    def test_none(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        outcome, _ = refused(data=tmp_path / "empty")
        assert outcome.code == "empty_dataset"
        assert "metadata.jsonl or caption files" in outcome.hint

    def test_a_column_of_captions_that_is_called_otherwise(self, refused: Any, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "data", train=1, held_out=1)
        lines = [{"file_name": f"{number}.png", "label": "a cat", "score": 0.5} for number in range(2)]
        (folder / "metadata.jsonl").write_text("\n".join(json.dumps(line | {"label": 3}) for line in lines))
        outcome, _ = refused(data=folder)
        assert outcome.code == "dataset_unreadable"
        assert "has no column of captions (it has label, score): name the one that holds them text" in outcome.message

    def test_pictures_that_cannot_be_read(self, refused: Any, tmp_path: Path) -> None:
        folder = make_pictures(tmp_path / "data", train=2, held_out=1)
        (folder / "0.png").write_bytes(b"no picture")
        (folder / "1.png").write_bytes((folder / "2.png").read_bytes()[:100])
        outcome, _ = refused(data=folder)
        assert outcome.code == "dataset_unreadable"
        assert "0.png is damaged" in outcome.message
        assert "1.png is damaged" in outcome.message

    def test_masks_that_are_not_there(self, refused: Any) -> None:
        outcome, said = refused(loss__masked={}, preview__prompts=[])
        assert outcome.code == "invalid_input"
        assert "The recipe does not fit the data. /loss/masked: is set, but no picture has a mask" in outcome.message
        assert "The request" not in said


class TestTheBase:
    def test_none(self, refused: Any) -> None:
        outcome, said = refused(base=Path("/no/base"))
        assert outcome.code == "invalid_input"
        assert "paths.base_dir: /no/base does not exist" in said

    def test_one_of_another_family(self, refused: Any, tmp_path: Path) -> None:
        save_file({"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, tmp_path / "flux.safetensors")
        outcome, _ = refused(base=tmp_path / "flux.safetensors")
        assert outcome.code == "base_unreadable"
        assert "It looks like a Flux model, not an SDXL base." in outcome.message

    def test_one_of_another_family_and_bad_pictures_at_once(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "base" / "unet").mkdir(parents=True)
        (tmp_path / "base" / "unet" / "config.json").write_text("{}")
        (tmp_path / "base" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
        outcome, _ = refused(base=tmp_path / "base", data=tmp_path / "bad")
        assert outcome.code == "base_unreadable"
        assert "model_index.json says StableDiffusionPipeline" in outcome.message
        assert "a.png is damaged" in outcome.message

    def test_one_that_neither_the_objective_nor_the_weights_form_fits(
        self, refused: Any, base_dir: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(base_dir, tmp_path / "base")
        config = tmp_path / "base" / "unet" / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"layers_per_block": 3}))
        outcome, _ = refused("loss.zero_terminal_snr=true", "output_dialect=kohya", base=tmp_path / "base")
        assert outcome.code == "invalid_input"
        assert "/loss/zero_terminal_snr: needs v-prediction" in outcome.message
        assert "/output_dialect: kohya's names count two layers a block" in outcome.message


class TestAPlan:
    def test_is_refused_for_the_same_all_at_once_and_before_the_base_is_traced(
        self, base_dir: Path, cache_dir: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        monkeypatch.setattr(trainer.planning, "describe", None)
        (tmp_path / "bad").mkdir()
        (tmp_path / "bad" / "a.png").write_bytes(b"no picture")
        changes = {"loss__zero_terminal_snr": True, "lora__rank_pattern": {"*.nowhere.*": 2}}
        recipe = make_recipe(tmp_path / "r.yaml", base_dir, tmp_path / "bad", **changes)
        assert main(["plan", str(recipe), "--cache-dir", str(cache_dir)]) == 1
        said = capsys.readouterr().err
        for words in ("error (invalid_input): ", "/loss/zero_terminal_snr: needs", "*.nowhere.*", "a.png is damaged"):
            assert words in said


class TestWeightsToStartFrom:
    def test_that_are_no_weights(self, refused: Any, tmp_path: Path) -> None:
        (tmp_path / "w.safetensors").write_bytes(b"no weights")
        outcome, _ = refused("--init-weights", str(tmp_path / "w.safetensors"))
        assert outcome.code == "weights_unreadable"
