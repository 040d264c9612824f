"""Diffusers names back to the original layout's: the way sdxl/original.py does not go, to make test files with."""

from __future__ import annotations

import re

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
STEMS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn.out_proj": "attn.out_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def to_original(component: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A component's tensors under its original names, without the component's prefix."""
    if component == "unet":
        attention_levels = {m[1] for key in state if (m := re.match(r"up_blocks\.(\d)\.attentions\.", key))}
        return {_unet(key, attention_levels): tensor for key, tensor in state.items()}
    if component == "vae":
        levels = 1 + max(int(m[1]) for key in state if (m := re.match(r"decoder\.up_blocks\.(\d)", key)))
        return {
            _vae(key, levels): tensor[:, :, None, None] if ".attentions." in key and tensor.ndim == 2 else tensor
            for key, tensor in state.items()
        }
    return dict(state) if component == "text_encoder" else _open_clip(state)


def _unet(key: str, attention_levels: set[str]) -> str:
    for ours, theirs in STEMS.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    if match := re.match(r"(down|up)_blocks\.(\d)\.(down|up)samplers\.0\.conv\.(\w+)", key):
        level = int(match[2])
        if match[1] == "down":
            return f"input_blocks.{3 * level + 3}.0.op.{match[4]}"
        return f"output_blocks.{3 * level + 2}.{2 if match[2] in attention_levels else 1}.conv.{match[4]}"
    if match := re.match(r"(down|up)_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)", key):
        number = 3 * int(match[2]) + int(match[4]) + (match[1] == "down")
        inner, part = (0, _resnet(match[5])) if match[3] == "resnets" else (1, match[5])
        return f"{'input' if match[1] == 'down' else 'output'}_blocks.{number}.{inner}.{part}"
    match = re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", key)
    assert match is not None, key
    if match[1] == "attentions":
        return f"middle_block.1.{match[3]}"
    return f"middle_block.{2 * int(match[2])}.{_resnet(match[3])}"


def _resnet(part: str) -> str:
    stem, _, kind = part.rpartition(".")
    return f"{RESNET[stem]}.{kind}"


def _vae(key: str, levels: int) -> str:
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    if match := re.match(r"(.+)\.mid_block\.attentions\.0\.(.+)\.(weight|bias)$", key):
        return f"{match[1]}.mid.attn_1.{VAE_ATTENTION[match[2]]}.{match[3]}"
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", key)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", key)


def _open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    layers = {int(m[1]) for key in state if (m := re.match(r"text_model\.encoder\.layers\.(\d+)\.", key))}
    for layer in layers:
        here, there = f"text_model.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            packed = [state[f"{here}.self_attn.{side}_proj.{kind}"] for side in "qkv"]
            named[f"{there}.attn.in_proj_{kind}"] = torch.cat(packed)
            for ours, theirs in CLIP.items():
                named[f"{there}.{theirs}.{kind}"] = state[f"{here}.{ours}.{kind}"]
    return named
