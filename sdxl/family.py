"""Is this an SDXL base? Answers from names, shapes and configs alone, before any weight is read.

Knows nothing about loading. Every refusal says what the thing seems to be instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.failures import FailureCode, PatinaError
from sdxl import original

SDXL_CONTEXT = "text_time"

_TELLTALES = {
    "double_blocks.": "a Flux model",
    "joint_blocks.": "a Stable Diffusion 3 model",
    "cond_stage_model.transformer.": "a Stable Diffusion 1 model",
    "cond_stage_model.model.": "a Stable Diffusion 2 model",
    "lora_up.weight": "a LoRA, which is trained on a base",
    "lora_B.weight": "a LoRA, which is trained on a base",
    "control_model.": "a ControlNet",
}


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
    _refuse_channels(shapes[original.UNET + "input_blocks.0.0.weight"][1])


def unreadable(reason: str) -> PatinaError:
    """BASE_UNREADABLE with an exact reason."""
    return PatinaError(FailureCode.BASE_UNREADABLE, f"The base model cannot be used. {reason}")


def _refuse_channels(channels: int) -> None:
    if channels != 4:
        raise unreadable(f"Its UNet takes {channels} input channels: an inpainting or edit model, not a base.")
