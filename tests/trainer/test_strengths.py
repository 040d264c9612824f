"""Block weights: layers that act less, or more, in what is measured, shown and published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from contracts.lora import TEXT_ENCODERS
from contracts.rundir import RunDir
from tests.trainer.tiny import events_of, losses, make_recipe, same, train, weights_of
from trainer.strengths import UP, Strengths

ATTENTION = "up_blocks.*.attentions.*"


def adapter() -> dict[str, torch.Tensor]:
    layers = ("down_blocks.1.attentions.0.proj_in", "up_blocks.0.attentions.0.proj_in", "up_blocks.0.resnets.0.conv1")
    return {f"unet.{layer}{part}": torch.randn(3, 2) for layer in layers for part in (".lora_A.weight", UP)}


class TestStrengths:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_scale_the_updates_that_fit_and_give_them_back_bit_for_bit(self, dtype: torch.dtype) -> None:
        live = {name: tensor.to(dtype) for name, tensor in adapter().items()}
        before = {name: tensor.clone() for name, tensor in live.items()}
        with Strengths(live, {ATTENTION: 0.3}).in_place():
            for name, tensor in live.items():
                scaled = name == f"unet.up_blocks.0.attentions.0.proj_in{UP}"
                assert torch.equal(tensor, before[name] * 0.3 if scaled else before[name]), name
        assert same(live, before)

    def test_scale_layers_of_one_name_in_both_text_encoders(self) -> None:
        layer = f"text_model.encoder.layers.0.self_attn.q_proj{UP}"
        live = {f"{encoder}.{layer}": torch.ones(3, 2) for encoder in TEXT_ENCODERS}
        with Strengths(live, {"*.q_proj": 0.5}).in_place():
            assert all(bool((up == 0.5).all()) for up in live.values())

    def test_give_them_back_when_what_is_done_meanwhile_fails(self) -> None:
        live = adapter()
        before = {name: tensor.clone() for name, tensor in live.items()}
        with pytest.raises(KeyError), Strengths(live, {"*": 0.0}).in_place():
            raise KeyError
        assert same(live, before)


class TestARun:
    @pytest.fixture(scope="class")
    def plain(self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return _run(tmp_path_factory.mktemp("plain"), base_dir, pictures, cache_dir)

    def test_trains_as_ever_and_publishes_the_layers_as_strong_as_was_asked(
        self, plain: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        scaled = _run(tmp_path, base_dir, pictures, cache_dir, lora__strength_pattern={ATTENTION: 0.5})
        assert losses(scaled) == losses(plain)
        whole = weights_of(plain)
        wanted = {n: t * 0.5 if ".up_blocks." in n and ".attentions." in n and UP in n else t for n, t in whole.items()}
        assert not same(wanted, whole)
        assert same(weights_of(scaled), wanted)

    def test_shows_and_measures_what_it_publishes(
        self, plain: Path, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        nothing = _run(tmp_path, base_dir, pictures, cache_dir, lora__strength_pattern={"*": 0.0})
        shown = {name: _previews(run) for name, run in (("plain", plain), ("nothing", nothing))}
        assert shown["nothing"][0] == shown["nothing"][-1] == shown["plain"][0] != shown["plain"][-1]
        measured = {name: _held_out(run) for name, run in (("plain", plain), ("nothing", nothing))}
        assert measured["nothing"][0] == measured["nothing"][-1] == measured["plain"][0] != measured["plain"][-1]

    def test_starts_from_such_weights_where_their_training_ended(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path
    ) -> None:
        strengths = {"lora__strength_pattern": {ATTENTION: 0.5, "down_blocks.*": 0.0}}
        parent = _run(tmp_path, base_dir, pictures, cache_dir, **strengths)
        more = {**strengths, "init_from": "tiny@1", "steps": 2}
        begun = ("--init-weights", str(parent / "weights" / "tiny.safetensors"))
        child = _run(tmp_path / "child", base_dir, pictures, cache_dir, *begun, **more)
        assert _held_out(child)[0] == _held_out(parent)[-1]

    def test_cannot_have_strengths_of_magnitudes(
        self, base_dir: Path, pictures: Path, cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        changes = {"lora__dora": True, "lora__strength_pattern": {"*": 0.5}}
        assert train(make_recipe(tmp_path / "r.yaml", base_dir, pictures, **changes), tmp_path / "run", cache_dir) == 1
        assert "leave it out with dora" in capsys.readouterr().err


def _run(folder: Path, base_dir: Path, pictures: Path, cache_dir: Path, *more: str, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    recipe = make_recipe(folder / "r.yaml", base_dir, pictures, **changes)
    assert train(recipe, folder / "run", cache_dir, *more) == 0
    return folder / "run"


def _previews(run: Path) -> list[bytes]:
    return [file.read_bytes() for file in sorted(RunDir(run).previews.glob("step-*.png"))]


def _held_out(run: Path) -> list[float]:
    return [event.loss for event in events_of(run) if event.type == "held_out"]
