"""From diffusers' names to the original SDXL checkpoint's (one file, Stability's module names): the way back.

``sdxl/original.py`` undoes it exactly. Pure functions over names and single tensors: knows nothing about files or
LoRAs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from sdxl import original
from sdxl.original import LAYERS_PER_BLOCK

_UNET_STEMS = {ours: theirs for theirs, ours in original.UNET_STEMS.items()}
_RESNET_PARTS = {ours: theirs for theirs, ours in original.RESNET_PARTS.items()}
_MIDDLE_BLOCK = {ours: theirs for theirs, ours in original.MIDDLE_BLOCK.items()}
_VAE_ATTENTION = {ours: theirs for theirs, ours in original.VAE_ATTENTION.items()}
_CLIP_LAYER = {ours: theirs for theirs, ours in original.CLIP_LAYER.items()}
_CLIP_STEMS = {ours: theirs for theirs, ours in original.CLIP_STEMS.items()}
_SAMPLER = re.compile(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv(?=\.|$)")
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.((?:resnets|attentions)\.\d)\.(.+)")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")

Combine = Callable[[Sequence[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Origin:
    """A tensor of the original file and what it is made of."""

    name: str
    """With its component's prefix."""
    sources: tuple[str, ...]
    """Diffusers names, in the order ``combine`` takes them."""
    combine: Combine


def origins(component: str, names: Collection[str]) -> Iterator[Origin]:
    """Every tensor the original file has for a component.

    Args:
        component: unet, vae, text_encoder or text_encoder_2.
        names: of all its tensors in diffusers' form.

    Raises:
        ValueError: a name belongs to no SDXL of the original layout.
    """
    prefix = original.PREFIXES[component]
    if component == "text_encoder_2":
        for origin in _open_clip(names):
            yield Origin(prefix + origin.name, origin.sources, origin.combine)
        return
    levels = 1 + max((int(match[1]) for n in names if (match := re.match(r"decoder\.up_blocks\.(\d+)", n))), default=-1)
    with_attention = {int(match[1]) for n in names if (match := re.match(r"up_blocks\.(\d+)\.attentions\.", n))}
    for name in names:
        if component == "unet":
            yield Origin(prefix + unet_name(name, with_attention), (name,), _alone)
        elif component == "vae":
            packed = ".attentions." in name and name.endswith(".weight") and ".group_norm." not in name
            yield Origin(prefix + _vae_name(name, levels), (name,), _as_convolution if packed else _alone)
        else:
            yield Origin(prefix + name, (name,), _alone)


def unet_name(name: str, with_attention: Collection[int] | None = None) -> str:
    """The original name of a UNet tensor or module.

    Args:
        name: diffusers' name.
        with_attention: numbers of the up blocks that have attention, where upsamplers are third in line and not
            second; None is all of them, as in every SDXL that has been published.

    Raises:
        ValueError: there is no such name in the original layout.
    """
    for ours, theirs in _UNET_STEMS.items():
        if name == ours or name.startswith(ours + "."):
            return theirs + name[len(ours) :]
    each = LAYERS_PER_BLOCK + 1
    if match := _SAMPLER.match(name):
        level, rest = int(match[2]), name[match.end() :]
        if match[1] == "down":
            return f"input_blocks.{each * (level + 1)}.0.op{rest}"
        inner = 2 if with_attention is None or level in with_attention else 1
        return f"output_blocks.{each * level + LAYERS_PER_BLOCK}.{inner}.conv{rest}"
    if match := _BLOCK.fullmatch(name):
        level, layer, is_resnet = int(match[2]), int(match[4]), match[3] == "resnets"
        number = each * level + layer + (match[1] == "down")
        part = _resnet_part(match[5]) if is_resnet else match[5]
        if layer < LAYERS_PER_BLOCK + (match[1] == "up"):
            return f"{'input' if match[1] == 'down' else 'output'}_blocks.{number}.{0 if is_resnet else 1}.{part}"
    if (match := _MIDDLE.fullmatch(name)) and match[1] in _MIDDLE_BLOCK:
        part = _resnet_part(match[2]) if match[1].startswith("resnets") else match[2]
        return f"middle_block.{_MIDDLE_BLOCK[match[1]]}.{part}"
    raise ValueError(f"the original layout has no name for the UNet's {name}")


def _resnet_part(part: str) -> str:
    for ours, theirs in _RESNET_PARTS.items():
        if part == ours or part.startswith(ours + "."):
            return theirs + part[len(ours) :]
    raise ValueError(f"the original layout has no name for a residual layer's {part}")


def _vae_name(name: str, levels: int) -> str:
    name = name.replace(".conv_norm_out.", ".norm_out.").replace(".conv_shortcut.", ".nin_shortcut.")
    name = re.sub(r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(
        r"\.mid_block\.attentions\.0\.(.+)\.(weight|bias)$",
        lambda m: f".mid.attn_1.{_VAE_ATTENTION[m[1]]}.{m[2]}",
        name,
    )
    name = re.sub(r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block.", name)
    name = re.sub(r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.resnets\.", lambda m: f".up.{levels - 1 - int(m[1])}.block.", name)
    return re.sub(r"\.up_blocks\.(\d+)\.upsamplers\.0\.", lambda m: f".up.{levels - 1 - int(m[1])}.upsample.", name)


def _open_clip(names: Collection[str]) -> Iterator[Origin]:
    for name in names:
        if name in _CLIP_STEMS:
            yield Origin(_CLIP_STEMS[name], (name,), _alone)
        elif name == "text_projection.weight":
            yield Origin("text_projection", (name,), _transposed)
        elif match := _LAYER.fullmatch(name):
            layer, part, kind = f"transformer.resblocks.{match[1]}", match[2], match[3]
            if part in _CLIP_LAYER:
                yield Origin(f"{layer}.{_CLIP_LAYER[part]}.{kind}", (name,), _alone)
            elif part == "self_attn.q_proj":
                packed = tuple(name.replace(".q_proj.", f".{side}_proj.") for side in "qkv")
                yield Origin(f"{layer}.attn.in_proj_{kind}", packed, _stacked)
            elif part not in ("self_attn.k_proj", "self_attn.v_proj"):
                raise ValueError(f"the original layout has no name for the text encoder's {name}")
        else:
            raise ValueError(f"the original layout has no name for the text encoder's {name}")


def _alone(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0]


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(tensors))


def _transposed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].T


def _as_convolution(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0][:, :, None, None]
