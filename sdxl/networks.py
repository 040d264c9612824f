"""Build a base's networks without memory and fill them from its files, tensor by tensor.

Knows nothing about what the networks are for. The installed libraries' own names and configs decide the
structure; sdxl/files.py says where the tensors are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from contracts.base import Denoising, PredictionType
from contracts.precision import Quantization
from sdxl import files as base_files
from sdxl.family import unreadable
from sdxl.files import BaseFiles
from sdxl.quantized import QuantizedLinear, quantizable
from sdxl.stock import AutoencoderKL, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, UNet2DConditionModel
from sdxl.tokens import MAX_TOKENS

ZERO_TERMINAL_SNR = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""Of a scheduler's config: betas rescaled so that the last step is pure noise, and sampling that begins there
(Lin et al. 2023, arXiv:2305.08891, §3.2 and §3.3)."""


def load_network(
    files: BaseFiles,
    component: str,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    quantize: Quantization | None = None,
) -> Any:
    """Build one network and fill it from the files: frozen, in eval mode.

    Args:
        quantize: of a UNet, how the weights of its transformers are kept; each is quantised as it is read.
    """
    network = empty_network(files, component)
    if quantize is None:
        state = model_state(files, component, network, dtype=dtype, device=device)
    else:
        state = _quantized_state(files, component, network, quantize, dtype=dtype, device=device)
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
    named = _named_tensors(files, component, network)
    return {key: tensor.to(device=device, dtype=dtype).contiguous() for key, tensor in named}


def _quantized_state(
    files: BaseFiles,
    component: str,
    network: Any,
    quantize: Quantization,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
) -> dict[str, torch.Tensor]:
    """The same but for the weights that are quantised: their layers are put into the network instead."""
    layers, state = quantizable(network), {}
    for key, tensor in _named_tensors(files, component, network):
        name, _, part = key.rpartition(".")
        if part != "weight" or name not in layers:
            # Copied even if nothing changes: a tensor of the mapped file would keep the pages of those that are packed.
            state[key] = tensor.to(device=device, dtype=dtype, copy=True).contiguous()
            continue
        parent, _, last = name.rpartition(".")
        plain = network.get_submodule(name)
        layer = QuantizedLinear(tensor.to(device=device), quantize, dtype=dtype, bias=plain.bias is not None)
        setattr(network.get_submodule(parent), last, layer)
    return state


def _named_tensors(files: BaseFiles, component: str, network: Any) -> Iterator[tuple[str, torch.Tensor]]:
    expected = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    bare = component == "text_encoder" and not any(key.startswith("text_model.") for key in expected)
    for found, tensor in base_files.tensors(files, component):
        key = found.removeprefix("text_model.") if bare else found
        if key in expected and expected[key] != tuple(tensor.shape):
            raise unreadable(f"{component}: {key} has shape {tuple(tensor.shape)}, not {expected[key]}.")
        yield key, tensor


def empty_network(files: BaseFiles, component: str) -> Any:
    """A component's network on the meta device: structure without memory. Draws no random number."""
    settings = base_files.config(files, component)
    with torch.device("meta"):
        if component == "unet":
            return unet_from_config(settings)
        if component == "vae":
            return AutoencoderKL.from_config(settings)
        model = CLIPTextModel if component == "text_encoder" else CLIPTextModelWithProjection
        return model(CLIPTextConfig.from_dict(settings))


def unet_from_config(settings: dict[str, Any]) -> Any:
    """A UNet on whatever device or tensor mode is in force."""
    return UNet2DConditionModel.from_config(settings)


def scheduler_config(files: BaseFiles) -> dict[str, Any]:
    """The scheduler's config with the prediction type filled in, and what a single file says of itself."""
    settings = base_files.config(files, "scheduler")
    settings.setdefault("prediction_type", "epsilon")
    if base_files.is_marked(files, "v_pred") or base_files.header(files).get("modelspec.prediction_type") == "v":
        settings["prediction_type"] = "v_prediction"
    if base_files.is_marked(files, "ztsnr"):
        settings |= ZERO_TERMINAL_SNR
    if settings["prediction_type"] not in ("epsilon", "v_prediction"):
        raise unreadable(f"It predicts '{settings['prediction_type']}'; only epsilon and v_prediction are known.")
    return settings


def denoising(settings: Mapping[str, Any]) -> Denoising:
    """What a scheduler's config, with its prediction type filled in, says of the UNet."""
    return Denoising(settings["prediction_type"], bool(settings.get("rescale_betas_zero_snr")))


def schedule_as_trained(
    settings: Mapping[str, Any], prediction_type: PredictionType | None, zero_terminal_snr: bool | None
) -> dict[str, Any]:
    """A base's scheduler config as a run changes it: None keeps what the base says."""
    changed = dict(settings)
    if prediction_type is not None:
        changed["prediction_type"] = prediction_type
    if zero_terminal_snr:
        changed |= ZERO_TERMINAL_SNR
    elif zero_terminal_snr is False:
        changed["rescale_betas_zero_snr"] = False
    return changed


def vae_factor(files: BaseFiles) -> int:
    """Pixels a latent stands for, along one side."""
    return int(2 ** (len(base_files.config(files, "vae")["block_out_channels"]) - 1))


def text_features(files: BaseFiles) -> int:
    """Numbers of an encoded caption of one chunk: the states of its tokens, and the pooled vector."""
    unet = base_files.config(files, "unet")
    pooled = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
    return int((MAX_TOKENS + 2) * unet["cross_attention_dim"] + pooled)


def native_px(files: BaseFiles) -> int:
    """The side of the square the base was trained on."""
    return int(base_files.config(files, "unet")["sample_size"]) * vae_factor(files)
