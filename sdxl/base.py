"""Load an SDXL base from a diffusers folder or a single .safetensors file, each part in its target dtype.

Knows nothing about adapters, datasets or requests. Parts are built without memory and filled tensor by
tensor, so the peak is the parts asked for and nothing more.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from contracts.base import PredictionType
from sdxl import files as base_files
from sdxl.family import unreadable
from sdxl.files import BaseFiles, open_base

ALL_COMPONENTS = frozenset({"unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"})
TEXT_COMPONENTS = frozenset({"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"})


@dataclass
class Base:
    """A loaded base; parts that were not asked for are None.

    The networks are frozen and in eval mode. Their types are diffusers' and transformers' own classes.
    """

    path: Path
    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    scheduler_config: dict[str, Any]
    native_px: int
    vae_factor: int
    latent_channels: int
    vae_scaling_factor: float
    prediction_type: PredictionType
    force_zeros_for_empty_prompt: bool
    dtype: torch.dtype
    device: torch.device


def load_base(
    path: Path,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    components: Set[str] | None = None,
    vae_dtype: torch.dtype = torch.float32,
    config_dir: Path | None = None,
    tokenizer_dir: Path | None = None,
) -> Base:
    """Load the parts of a base that are needed.

    Args:
        path: diffusers folder or single .safetensors file.
        dtype: of the UNet and the text encoders.
        device: where the networks go.
        components: names of the parts; None is all of them.
        vae_dtype: of the VAE, whose decoder overflows in half precision.
        config_dir: see ``sdxl.files.open_base``.
        tokenizer_dir: see ``sdxl.files.open_base``.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    files = open_base(path, config_dir=config_dir, tokenizer_dir=tokenizer_dir)
    wanted = ALL_COMPONENTS if components is None else components
    if unknown := wanted - ALL_COMPONENTS:
        raise ValueError(f"unknown components {sorted(unknown)}; there are {sorted(ALL_COMPONENTS)}")

    def network(name: str) -> Any:
        if name not in wanted:
            return None
        return load_network(files, name, dtype=vae_dtype if name == "vae" else dtype, device=device)

    def tokenizer(name: str) -> Any:
        return CLIPTokenizer.from_pretrained(files.tokenizer_dir / name) if name in wanted else None

    scheduler, vae = scheduler_config(files), base_files.config(files, "vae")
    return Base(
        path=path,
        unet=network("unet"),
        vae=network("vae"),
        text_encoder=network("text_encoder"),
        text_encoder_2=network("text_encoder_2"),
        tokenizer=tokenizer("tokenizer"),
        tokenizer_2=tokenizer("tokenizer_2"),
        scheduler_config=scheduler,
        native_px=native_px(files),
        vae_factor=vae_factor(files),
        latent_channels=int(vae["latent_channels"]),
        vae_scaling_factor=float(vae["scaling_factor"]),
        prediction_type=scheduler["prediction_type"],
        force_zeros_for_empty_prompt=bool(base_files.model_index(files).get("force_zeros_for_empty_prompt", True)),
        dtype=dtype,
        device=torch.device(device),
    )


def load_network(files: BaseFiles, component: str, *, dtype: torch.dtype, device: str | torch.device = "cpu") -> Any:
    """Build one network and fill it from the files: frozen, in eval mode."""
    network = empty_network(files, component)
    state = model_state(files, component, network, dtype=dtype, device=device)
    missing, unexpected = network.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise unreadable(
            f"Its {component} does not fit its config: {len(missing)} tensors missing, {len(unexpected)} unknown"
            f" (first: {(missing or unexpected)[0]})."
        )
    for module in network.modules():
        if getattr(module, "position_ids", None) is not None:
            count = module.position_ids.shape[-1]
            module.position_ids = torch.arange(count, device=device).expand(1, -1)
    return network.requires_grad_(False).eval()


def model_state(
    files: BaseFiles, component: str, network: Any, *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> dict[str, torch.Tensor]:
    """A component's tensors under the names the installed libraries use, checked for shape."""
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    bare = component == "text_encoder" and not any(key.startswith("text_model.") for key in expected)
    state = {}
    for found, tensor in base_files.tensors(files, component):
        key = found.removeprefix("text_model.") if bare else found
        if key in expected and expected[key] != tuple(tensor.shape):
            raise unreadable(f"{component}: {key} has shape {tuple(tensor.shape)}, not {expected[key]}.")
        state[key] = tensor.to(device=device, dtype=dtype).contiguous()
    return state


def empty_network(files: BaseFiles, component: str) -> Any:
    """A component's network on the meta device: structure without memory. Draws no random number."""
    settings = base_files.config(files, component)
    with torch.device("meta"):
        if component == "unet":
            return UNet2DConditionModel.from_config(settings)
        if component == "vae":
            return AutoencoderKL.from_config(settings)
        model = CLIPTextModel if component == "text_encoder" else CLIPTextModelWithProjection
        return model(CLIPTextConfig.from_dict(settings))


def scheduler_config(files: BaseFiles) -> dict[str, Any]:
    """The scheduler's config with the prediction type filled in."""
    settings = base_files.config(files, "scheduler")
    settings.setdefault("prediction_type", "epsilon")
    if base_files.predicts_velocity(files):
        settings["prediction_type"] = "v_prediction"
    if settings["prediction_type"] not in ("epsilon", "v_prediction"):
        raise unreadable(f"It predicts '{settings['prediction_type']}'; only epsilon and v_prediction are known.")
    return settings


def vae_factor(files: BaseFiles) -> int:
    """Pixels a latent stands for, along one side."""
    return int(2 ** (len(base_files.config(files, "vae")["block_out_channels"]) - 1))


def native_px(files: BaseFiles) -> int:
    """The side of the square the base was trained on."""
    return int(base_files.config(files, "unet")["sample_size"]) * vae_factor(files)
