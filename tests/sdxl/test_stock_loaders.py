"""What the stock pipeline makes of each dialect, on the demo base: as many layers act, and the picture is ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from sdxl.adapter import COMPONENTS, AdapterModule, Modules, in_component
from sdxl.base import Base, load_base
from sdxl.conditioning import encode_prompts, unconditional
from sdxl.dialects import Dialect, write
from sdxl.files import TOKENIZERS
from sdxl.readers import misreadings
from sdxl.sampling import sample, to_bytes

EMOJI_XL = TOKENIZERS
TRANSFORMER = (".to_q", ".to_k", ".to_v", ".to_out.0", ".ff.net.0.proj", ".ff.net.2", ".proj_in", ".proj_out")
RESIDUAL = (".conv1", ".conv2", ".time_emb_proj", ".conv_shortcut", ".conv")
CLIP = (".q_proj", ".k_proj", ".v_proj", ".out_proj", ".fc1", ".fc2")
PROMPT, SEED, STEPS, GUIDANCE = "red heart", 3, 2, 5.0
KINDS: dict[str, dict[str, bool]] = {"LoRA": {}, "LoCon": {"conv": True}, "DoRA": {"conv": True, "dora": True}}
KINDS |= {"alphas": {"alphas": True}}


@pytest.fixture(scope="module")
def pipe() -> Any:
    found = StableDiffusionXLPipeline.from_pretrained(EMOJI_XL, dtype=torch.float32)
    found.set_progress_bar_config(disable=True)
    return found


def layer_of(base: Any, name: str) -> nn.Module:
    component, _, path = name.partition(".")
    network = getattr(base, component)
    bare = path.removeprefix("text_model.") if not hasattr(network, "text_model") else path
    return network.get_submodule(bare)


def adapter(base: Base, *, conv: bool = False, dora: bool = False, alphas: bool = False) -> Modules:
    """Every layer of the three networks that trainers adapt; alpha is never the rank."""
    generator, found = torch.Generator().manual_seed(0), {}
    for component in COMPONENTS:
        ends = CLIP if component != "unet" else TRANSFORMER + (RESIDUAL if conv else ())
        for name, layer in getattr(base, component).named_modules():
            if not (isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(ends)):
                continue
            weight, number = layer.weight, len(found)
            rank = 2 + 2 * (number % 3 == 0) if alphas else 4
            alpha = (1.5 if number % 2 else 6.0) if alphas else {"unet": 2.0}.get(component, 7.0)
            kernel = weight.shape[2:]
            rows = weight.flatten(1).norm(dim=1)
            plain = name if component == "unet" else "text_model." + name.removeprefix("text_model.")
            found[f"{component}.{plain}"] = AdapterModule(
                torch.randn(rank, weight.shape[1], *kernel, generator=generator) * 0.05,
                torch.randn(weight.shape[0], rank, *(1 for _ in kernel), generator=generator) * 0.1,
                alpha,
                rows * (1 + 0.1 * torch.rand(len(rows), generator=generator)) if dora else None,
            )
    return found


def ours(base: Base) -> np.ndarray:
    return sample(
        base,
        encode_prompts(base, [PROMPT]),
        negative=unconditional(base),
        seeds=[SEED],
        steps=STEPS,
        guidance_scale=GUIDANCE,
        width=64,
        height=64,
    )


def with_updates(base: Base, modules: Modules) -> np.ndarray:
    """Our picture with the updates in the weights, by the papers' formulas."""
    for name, module in modules.items():
        weight = layer_of(base, name).weight
        update = (module.up.flatten(1) @ module.down.flatten(1)).reshape(weight.shape)
        changed = weight.detach() + module.alpha / module.rank * update
        if module.magnitude is not None:
            scale = module.magnitude / changed.flatten(1).norm(dim=1)
            changed = changed * scale.reshape(-1, *(1 for _ in weight.shape[1:]))
        weight.data.copy_(changed)
    return ours(base)


def acting(pipe: Any) -> int:
    layers = [m for part in COMPONENTS for m in getattr(pipe, part).modules() if isinstance(m, LoraLayer)]
    return sum(bool(layer.get_delta_weight(*layer.active_adapters).any()) for layer in layers)


def stock(pipe: Any) -> np.ndarray:
    generator = torch.Generator().manual_seed(SEED)
    return pipe(
        PROMPT, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generator, output_type="np"
    ).images


def assert_ours(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(to_bytes(found).astype(int) - to_bytes(expected).astype(int)).max() <= 1


def written(tmp_path: Path, modules: Modules, dialect: Dialect) -> Path:
    path = tmp_path / ("peft" if dialect == "peft" else f"{dialect}.safetensors")
    write(path, modules, {}, dialect)
    return path


def load_peft(pipe: Any, folder: Path) -> None:
    """PEFT's own loader for the text encoders, the pipeline's for the UNet: each what a person would call."""
    pipe.unet.load_lora_adapter(folder / "unet", weight_name="adapter_model.safetensors", prefix="base_model.model")
    for part in ("text_encoder", "text_encoder_2"):
        setattr(pipe, part, PeftModel.from_pretrained(getattr(pipe, part), folder / part).eval())


class TestStockPipeline:
    @pytest.mark.parametrize(
        "kind", ["LoRA", *(pytest.param(k, marks=pytest.mark.slow) for k in ("DoRA", "LoCon", "alphas"))]
    )
    def test_draws_our_picture_from_each_dialect_with_every_layer_acting(self, tmp_path, kind):
        base = load_base(EMOJI_XL, dtype=torch.float32)
        modules = adapter(base, **KINDS[kind])
        plain, expected = ours(base), with_updates(base, modules)
        assert np.abs(plain - expected).max() > 0.05
        for dialect in get_args(Dialect):
            if dialect == "kohya" and kind in ("DoRA", "alphas"):
                continue
            pipe = StableDiffusionXLPipeline.from_pretrained(EMOJI_XL, dtype=torch.float32)
            pipe.set_progress_bar_config(disable=True)
            path = written(tmp_path, modules, dialect)
            if dialect == "peft":
                load_peft(pipe, path)
            else:
                pipe.load_lora_weights(path)
            assert acting(pipe) == len(modules) == {"LoRA": 156, "alphas": 156}.get(kind, 222)
            assert_ours(stock(pipe), expected)

    def test_draws_our_picture_from_kohyas_form_with_one_alpha_for_each_of_three_ranks(self, tmp_path, pipe):
        """Alphas that differ inside a component are what its converter loses; ranks that differ are not."""
        base = load_base(EMOJI_XL, dtype=torch.float32)
        modules = {
            name: AdapterModule(module.down, module.up, 3.0) for name, module in adapter(base, alphas=True).items()
        }
        assert len({module.rank for module in in_component(modules, "unet").values()}) > 1
        expected = with_updates(base, modules)
        pipe.load_lora_weights(written(tmp_path, modules, "kohya"))
        assert acting(pipe) == len(modules)
        assert_ours(stock(pipe), expected)
        pipe.unload_lora_weights()

    def test_draws_our_picture_from_kohyas_form_where_attention_has_the_most_common_alpha(self, tmp_path, pipe):
        """As in configs/train/demo.yaml: convolutions and projections learn faster than attention."""
        base = load_base(EMOJI_XL, dtype=torch.float32)
        modules = {
            name: AdapterModule(m.down, m.up, 6.0 if ".resnets." in name or ".proj_" in name else m.alpha)
            for name, m in adapter(base, conv=True).items()
        }
        assert misreadings({name: module.alpha for name, module in modules.items()}, "kohya", dora=False) == []
        expected = with_updates(base, modules)
        pipe.load_lora_weights(written(tmp_path, modules, "kohya"))
        assert acting(pipe) == len(modules)
        assert_ours(stock(pipe), expected)
        pipe.unload_lora_weights()

    @pytest.mark.parametrize("kind", ["DoRA", "alphas"])
    def test_misreads_of_kohyas_form_what_the_converter_warns_of(self, tmp_path, pipe, kind):
        base = load_base(EMOJI_XL, dtype=torch.float32)
        modules = adapter(base, **KINDS[kind])
        expected = with_updates(base, modules)
        pipe.load_lora_weights(written(tmp_path, modules, "kohya"))
        assert np.abs(stock(pipe) - expected).max() > 1e-3
        pipe.unload_lora_weights()
