"""One peer's own loader over our files: `python -m benchmarks.compat_peers PEER WHERE FOLDER`, a JSON line a finding.

Packages a peer imports and reading LoRAs does not need (cv2, xformers, …) are stood in for by empty ones, for the
peer's own files alone. Knows nothing about how the files were made.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import diffusers  # before the stand-ins, so that it finds out for itself what there is
import torch
from diffusers import AutoencoderKL, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from sdxl.files import SDXL_CONFIGS

SAMPLED = 12
CLOSE = 1e-5
SDXL_UNET = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}
IMPORTED = (diffusers, AutoencoderKL, StableDiffusionXLPipeline)


class Empty(ModuleType):
    """A package that is not there."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class StandIns(MetaPathFinder, Loader):
    """Finds an empty package where a peer's own file imports one that is not there."""

    def __init__(self, where: str) -> None:
        self.where = where

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame is None or not frame.f_code.co_filename.startswith(self.where):
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        return None


def main(peer: str, where: str, folder: Path) -> None:
    """Print what the peer found in each file."""
    sys.meta_path.append(StandIns(where))
    sys.path.insert(0, where)
    with contextlib.redirect_stdout(sys.stderr):
        findings = {"ComfyUI": comfyui, "sd-scripts": sd_scripts, "stable-diffusion-webui-forge": forge}[peer](folder)
    for found in findings:
        print(json.dumps(found))


def comfyui(folder: Path) -> list[dict[str, Any]]:
    """Its detection of the checkpoint, its networks' names, its LoRA loader and its arithmetic."""
    sys.argv = ["comfyui", "--cpu"]
    import_module("comfy.options").enable_args_parsing()
    lora = import_module("comfy.lora")
    checkpoint = _checkpoint(folder)
    config = import_module("comfy.model_detection").model_config_from_unet(checkpoint, "model.diffusion_model.")
    kind = type(config).__name__
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model(checkpoint, "model.diffusion_model.", device="meta")
    clip = import_module("comfy.sdxl_clip").SDXLClipModel(device="meta", dtype=torch.float32)
    wanted = {f"diffusion_model.{name}" for name in model.diffusion_model.state_dict()}
    given = {n.removeprefix("model.") for n in checkpoint if n.startswith("model.diffusion_model.")}
    texts = set(config.process_clip_state_dict(dict(checkpoint)))
    text_wanted = {name for name in clip.state_dict() if "logit_scale" not in name}
    missing = len(wanted ^ given) + len(
        {n for n in text_wanted if "clip_l.transformer.text_projection" not in n} - texts
    )
    found = [
        _finding(
            "single file",
            len(checkpoint),
            len(checkpoint) - missing,
            missing,
            None,
            f"taken for {kind}",
            kind == "SDXL",
        )
    ]
    keys = lora.model_lora_keys_clip(clip, lora.model_lora_keys_unet(model, {}))
    shapes = {k: tuple(v.shape) for k, v in {**model.state_dict(), **clip.state_dict()}.items()}

    def load(state: dict[str, torch.Tensor]) -> tuple[dict[str, Any], int]:
        with _counted("lora key not loaded") as left_over:
            patches = lora.load_lora(state, keys)
        return patches, len(left_over)

    def changed(patch: Any, weight: torch.Tensor, key: str) -> torch.Tensor:
        return lora.calculate_weight([(1.0, patch, 1.0, None, None)], weight, key)

    return found + [
        _loaded(folder, name, load, keys, shapes, changed) for name in ("lora", "locon", "dora", "diffusers")
    ]


def forge(folder: Path) -> list[dict[str, Any]]:
    """Its LoRA loader over the checkpoint's names, and its arithmetic."""
    sys.argv = ["forge", "--always-cpu"]
    sys.path.insert(1, str(Path(sys.path[0]) / "packages_3rdparty"))
    lora = import_module("backend.patcher.lora")
    checkpoint = _checkpoint(folder)
    unet = {n.removeprefix("model."): t for n, t in checkpoint.items() if n.startswith("model.diffusion_model.")}
    texts = _clip_names(folder)
    config = SimpleNamespace(huggingface_repo="stabilityai/stable-diffusion-xl-base-1.0")
    unet_model = SimpleNamespace(
        state_dict=lambda: unet, diffusion_model=SimpleNamespace(config=SDXL_UNET), config=config
    )
    keys = lora.model_lora_keys_unet(unet_model, {})
    keys |= lora.model_lora_keys_clip(SimpleNamespace(state_dict=lambda: texts), {})
    shapes = {k: tuple(v.shape) for k, v in {**unet, **texts}.items()}

    def load(state: dict[str, torch.Tensor]) -> tuple[dict[str, Any], int]:
        patches, rest = lora.load_lora(state, keys)
        return patches, len(rest)

    def changed(patch: Any, weight: torch.Tensor, key: str) -> torch.Tensor:
        return lora.merge_lora_to_weight([(1.0, patch, 1.0, None, None)], weight, key)

    return [_loaded(folder, name, load, keys, shapes, changed) for name in ("lora", "locon", "dora")]


def sd_scripts(folder: Path) -> list[dict[str, Any]]:
    """Its network made from the file: the layers it finds, and the update each gives."""
    sys.argv = ["sd-scripts"]
    lora = import_module("networks.lora")
    with torch.device("meta"):
        unet = import_module("library.sdxl_original_unet").SdxlUNet2DConditionModel()
        first = CLIPTextModel(_clip_config("text_encoder"))
        second = CLIPTextModelWithProjection(_clip_config("text_encoder_2"))
    if not hasattr(first, "text_model"):
        # It walks the names transformers had before 5.
        inner, first = first, nn.Module()
        first.text_model = inner
    checkpoint = {n.removeprefix("model.diffusion_model.") for n in _checkpoint(folder) if ".diffusion_model." in n}
    differing = len(set(unet.state_dict()) ^ checkpoint)
    found = [_finding("single file", len(checkpoint), len(checkpoint) - differing, differing, None, "its UNet's names")]
    for name in ("lora", "locon"):
        state = load_file(folder / f"{name}.safetensors")
        words = {key.partition(".")[0] for key in state}
        network, _ = lora.create_network_from_weights(1.0, None, None, [first, second], unet, state, for_inference=True)
        layers = [*network.text_encoder_loras, *network.unet_loras]
        for layer in layers:
            layer.lora_name in words and network.add_module(layer.lora_name, layer)
        info = network.load_state_dict(state, strict=False)
        errors = [
            (layer.get_weight() - _update(state, layer.lora_name)).abs().max().item() for layer in _sampled(layers)
        ]
        left = sum(".org_module." not in key for key in (*info.missing_keys, *info.unexpected_keys))
        found.append(_finding(name, len(words), len(layers), left, max(errors), ""))
    return found


def _loaded(folder: Path, name: str, load: Any, keys: Any, shapes: Any, changed: Any) -> dict[str, Any]:
    state = load_file(folder / f"{name}.safetensors")
    words = sorted({key.partition(".lora_")[0] for key in state if ".lora_" in key and "magnitude" not in key})
    patches, left_over = load(dict(state))
    errors = []
    for word in _sampled([word for word in words if keys.get(word) in patches]):
        weight = torch.randn(shapes[keys[word]], generator=torch.Generator().manual_seed(0))
        expected = weight + _update(state, word).reshape(weight.shape)
        if (scale := state.get(f"{word}.dora_scale")) is not None:
            expected *= scale / expected.flatten(1).norm(dim=1).reshape(scale.shape)
        errors.append((changed(patches[keys[word]], weight.clone(), keys[word]) - expected).abs().max().item())
    if name == "dora":
        note = "known: base's norms" if max(errors) > CLOSE else "as in the paper"
        return _finding(name, len(words), len(patches), left_over, max(errors), note, len(words) == len(patches))
    if name == "diffusers":
        return _finding(
            name, len(words), len(patches), left_over, max(errors, default=None), "known: convert to kohya", True
        )
    return _finding(name, len(words), len(patches), left_over, max(errors), "")


def _finding(
    file: str, modules: int, matched: int, left_over: int, error: float | None, note: str, ok: bool | None = None
) -> dict[str, Any]:
    if ok is None:
        ok = modules == matched and left_over == 0 and (error is None or error < CLOSE)
    said = "-" if error is None else f"{error:.1e}"
    verdict = ("ok" if ok else "DIFFERS") + (f": {note}" if note else "")
    return {
        "file": file,
        "modules": modules,
        "matched": matched,
        "left_over": left_over,
        "error": said,
        "verdict": verdict,
        "ok": ok,
    }


def _update(state: dict[str, torch.Tensor], word: str) -> torch.Tensor:
    up, down = (
        (state[f"{word}.lora_up.weight"], state[f"{word}.lora_down.weight"])
        if f"{word}.lora_up.weight" in state
        else (state[f"{word}.lora_B.weight"], state[f"{word}.lora_A.weight"])
    )
    alpha = state.get(f"{word}.alpha", torch.tensor(float(len(down)))).item()
    update = up.flatten(1) @ down.flatten(1) * (alpha / len(down))
    return update.reshape(len(up), *down.shape[1:])


def _sampled(values: list[Any]) -> list[Any]:
    return values[:: max(1, len(values) // SAMPLED)]


def _checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    shapes = json.loads((folder / "checkpoint.json").read_text())
    return {name: torch.empty(shape, dtype=torch.float16, device="meta") for name, shape in shapes.items()}


def _clip_names(folder: Path) -> dict[str, torch.Tensor]:
    """The text encoders' names as Forge's model has them."""
    found = {}
    for part, name in (("clip_l", "text_encoder"), ("clip_g", "text_encoder_2")):
        with torch.device("meta"):
            network = CLIPTextModelWithProjection(_clip_config(name))
        found |= {f"{part}.transformer.{key}": tensor for key, tensor in network.state_dict().items()}
    return found


def _clip_config(name: str) -> CLIPTextConfig:
    return CLIPTextConfig.from_dict(json.loads((SDXL_CONFIGS / name / "config.json").read_text()))


@contextlib.contextmanager
def _counted(words: str) -> Any:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage()) if words in record.getMessage() else None
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
