"""Is this an SDXL base? Answers from names, shapes and configs alone, before any weight is read.

Knows nothing about loading. Every refusal says what the thing seems to be instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from contracts.failures import FailureCode, PatinaError
from sdxl import original

SDXL_CONTEXT = "text_time"

_CONSISTENCY = "Its UNet takes the guidance as an input: it is distilled (a latent consistency model), not a base."
_EDM = "It is trained on EDM's noise levels (as Playground 2.5 and CosXL are), which are not SDXL's."

_TELLTALES = {
    "double_blocks.": "a Flux model",
    "joint_blocks.": "a Stable Diffusion 3 model",
    "cond_stage_model.transformer.": "a Stable Diffusion 1 model",
    "cond_stage_model.model.": "a Stable Diffusion 2 model",
    "lora_up.weight": "a LoRA, which is trained on a base",
    "lora_B.weight": "a LoRA, which is trained on a base",
    "lora.up.weight": "a LoRA, which is trained on a base",
    "hada_w1": "a LoHa, which is trained on a base",
    "lokr_w": "a LoKr, which is trained on a base",
    "control_model.": "a ControlNet",
    "down_blocks.0.resnets.": "a UNet alone, in diffusers' names",
    "emb_params": "a textual inversion",
    "clip_g": "a textual inversion",
}
_FEW_STEPS = re.compile(r"(?<![a-z])(turbo|lightning|hyper|lcm|dmd2?)(?![a-z])", re.IGNORECASE)
_OTHER_NOISE = ("edm_mean", "edm_vpred.sigma_max")
"""Tensors by which single files say that they are trained on EDM's noise levels (Playground 2.5, CosXL)."""


def refuse_foreign_folder(index: Mapping[str, Any], unet: Mapping[str, Any]) -> None:
    """Refuse a diffusers folder that is not a plain SDXL text-to-image base.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    name = str(index.get("_class_name", "no _class_name"))
    if not name.startswith("StableDiffusionXL"):
        raise unreadable(f"model_index.json says {name}, not StableDiffusionXLPipeline.")
    if unet.get("addition_embed_type") != SDXL_CONTEXT:
        raise unreadable("Its UNet takes no size conditioning (text_time), so it is not SDXL.")
    missing = [part for part in ("text_encoder", "text_encoder_2") if not index.get(part, [None])[0]]
    if missing:
        raise unreadable(f"It has no {' and no '.join(missing)}; the SDXL refiner, for one, is not a base.")
    if unet.get("time_cond_proj_dim"):
        raise unreadable(_CONSISTENCY)
    if str((index.get("scheduler") or ["", ""])[1]).startswith("EDM"):
        raise unreadable(_EDM)
    _refuse_channels(int(unet.get("in_channels", 4)))


def refuse_foreign_file(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a single file that is not a whole SDXL checkpoint.

    Raises:
        PatinaError: BASE_UNREADABLE, with the reason.
    """
    missing = [part for part, prefix in original.PREFIXES.items() if not any(k.startswith(prefix) for k in shapes)]
    if missing:
        for telltale, what in _TELLTALES.items():
            if any(telltale in key for key in shapes):
                raise unreadable(f"It looks like {what}, not an SDXL base.")
        if any(key.startswith("conditioner.embedders.0.model.") for key in shapes):
            raise unreadable("It looks like the SDXL refiner, which has one text encoder; it is not a base.")
        raise unreadable(f"It is no whole SDXL checkpoint: there is no {', no '.join(missing)} in it.")
    if original.UNET + "label_emb.0.0.weight" not in shapes:
        raise unreadable("Its UNet takes no size conditioning (label_emb), so it is not SDXL.")
    if original.UNET + "time_embed.cond_proj.weight" in shapes:
        raise unreadable(_CONSISTENCY)
    if any(name in shapes for name in _OTHER_NOISE):
        raise unreadable(_EDM)
    _refuse_channels(shapes[original.UNET + "input_blocks.0.0.weight"][1])


def few_steps(names: Iterable[str]) -> str | None:
    """The word by which a base says of itself that it is distilled to sample in few steps, such as Turbo."""
    return next((found[1] for name in names if (found := _FEW_STEPS.search(name))), None)


def unreadable(reason: str) -> PatinaError:
    """BASE_UNREADABLE with an exact reason."""
    return PatinaError(FailureCode.BASE_UNREADABLE, f"The base model cannot be used. {reason}")


def _refuse_channels(channels: int) -> None:
    if channels != 4:
        raise unreadable(f"Its UNet takes {channels} input channels: an inpainting or edit model, not a base.")
