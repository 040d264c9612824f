"""Names of the original SDXL checkpoint layout (one file, Stability's module names) in diffusers' terms.

Pure functions over names and single tensors: knows nothing about files, models or LoRAs. The rules hold for
two residual layers a block, which SDXL has; with another count the numbered blocks would fall elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

UNET = "model.diffusion_model."
VAE = "first_stage_model."
TEXT_ENCODER = "conditioner.embedders.0.transformer."
TEXT_ENCODER_2 = "conditioner.embedders.1.model."
PREFIXES = {"unet": UNET, "vae": VAE, "text_encoder": TEXT_ENCODER, "text_encoder_2": TEXT_ENCODER_2}

LAYERS_PER_BLOCK = 2

UNET_STEMS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
RESNET_PARTS = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
MIDDLE_BLOCK = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
VAE_ATTENTION = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
CLIP_STEMS = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}


def counts(layers: int | Sequence[int]) -> bool:
    """Whether the numbers mean blocks of a UNet with so many layers in each, as diffusers' ``layers_per_block``."""
    return ({layers} if isinstance(layers, int) else set(layers)) == {LAYERS_PER_BLOCK}


def to_diffusers(component: str, name: str, tensor: torch.Tensor, vae_levels: int) -> list[tuple[str, torch.Tensor]]:
    """One tensor of the original file, its component's prefix removed, as the diffusers tensors it holds.

    Names that belong to no diffusers tensor (CLIP's logit scale, position ids) give an empty list. One
    tensor gives several where OpenCLIP packs query, key and value together.
    """
    if component == "unet":
        return _one(unet_name(name), tensor)
    if component == "vae":
        found = _vae_name(name, vae_levels)
        is_packed_linear = ".attentions." in found and tensor.ndim == 4
        return _one(found, tensor[:, :, 0, 0] if is_packed_linear else tensor)
    if component == "text_encoder":
        return _one("" if name.endswith("position_ids") else name, tensor)
    return _open_clip(name, tensor)


def vae_levels(names: Iterable[str]) -> int:
    """How many resolutions the VAE has, from its original names; the decoder counts them backwards."""
    levels = [int(match[1]) for name in names if (match := re.match(r"decoder\.up\.(\d+)\.", name))]
    return max(levels, default=-1) + 1


def _one(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    return [(name, tensor)] if name else []


def unet_name(name: str) -> str:
    """Diffusers' name of a UNet tensor or module part of the original file; "" for what is none."""
    for original, ours in UNET_STEMS.items():
        if name.startswith(original + "."):
            return ours + name[len(original) :]
    kind, _, rest = name.partition(".")
    number, _, rest = rest.partition(".")
    if kind == "middle_block" and number in MIDDLE_BLOCK:
        return f"mid_block.{MIDDLE_BLOCK[number]}.{_resnet_part(rest)}"
    if kind == "input_blocks":
        level, layer = divmod(int(number) - 1, LAYERS_PER_BLOCK + 1)
        inner, _, part = rest.partition(".")
        if part.startswith("op."):
            return f"down_blocks.{level}.downsamplers.0.conv.{part.removeprefix('op.')}"
        return f"down_blocks.{level}.{_list_of(inner)}.{layer}.{_resnet_part(part)}"
    if kind == "output_blocks":
        level, layer = divmod(int(number), LAYERS_PER_BLOCK + 1)
        inner, _, part = rest.partition(".")
        if part.startswith("conv."):
            return f"up_blocks.{level}.upsamplers.0.{part}"
        return f"up_blocks.{level}.{_list_of(inner)}.{layer}.{_resnet_part(part)}"
    return ""


def _list_of(inner: str) -> str:
    return "resnets" if inner == "0" else "attentions"


def _resnet_part(part: str) -> str:
    for original, ours in RESNET_PARTS.items():
        if part.startswith(original + "."):
            return ours + part[len(original) :]
    return part


def _vae_name(name: str, levels: int) -> str:
    name = re.sub(r"\.norm_out\.", ".conv_norm_out.", name)
    name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".mid_block.resnets.{int(m[1]) - 1}.", name)
    name = re.sub(
        r"\.mid\.attn_1\.(\w+)\.",
        lambda m: f".mid_block.attentions.0.{VAE_ATTENTION[m[1]]}.",
        name,
    )
    name = re.sub(r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets.", name)
    name = re.sub(r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0.", name)
    name = re.sub(r"\.up\.(\d+)\.block\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.resnets.", name)
    name = re.sub(r"\.up\.(\d+)\.upsample\.", lambda m: f".up_blocks.{levels - 1 - int(m[1])}.upsamplers.0.", name)
    return name.replace(".nin_shortcut.", ".conv_shortcut.")


def _open_clip(name: str, tensor: torch.Tensor) -> list[tuple[str, torch.Tensor]]:
    if name in CLIP_STEMS:
        return [(CLIP_STEMS[name], tensor)]
    if name == "text_projection":
        # OpenCLIP multiplies from the right, transformers keeps a Linear.
        return [("text_projection.weight", tensor.T)]
    match = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
    if match is None:
        return []
    layer, part = f"text_model.encoder.layers.{match[1]}", match[2]
    if part.startswith("attn.in_proj_"):
        kind = part.removeprefix("attn.in_proj_")
        return [
            (f"{layer}.self_attn.{side}_proj.{kind}", piece) for side, piece in zip("qkv", tensor.chunk(3), strict=True)
        ]
    stem, _, kind = part.rpartition(".")
    return [(f"{layer}.{CLIP_LAYER[stem]}.{kind}", tensor)]
