"""What other programs' loaders make of a correct LoRA file, found by reading and running them (docs/log.md).

Knows nothing about how files are written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from contracts.lora import UNET
from sdxl.dialects import Dialect


def misreadings(alphas: Mapping[str, float], dialect: Dialect, *, dora: bool) -> list[str]:
    """Where a stock loader draws something else than the file says; nothing where each reads it whole.

    Args:
        alphas: by module.
        dora: whether any of them has a magnitude.
    """
    found = []
    if dialect == "kohya" and dora:
        found.append(
            "DoRA in kohya's form is LyCORIS' (dora_scale, wd_on_output): diffusers 0.42 drops it with a warning,"
            " ComfyUI and Forge divide by the norm of the base's rows and not of the adapted ones, sd-scripts' own"
            " network does not know it."
        )
    if dialect == "kohya" and _alphas_are_lost(alphas):
        found.append(
            "Alpha differs inside a component: the file says so module by module, but diffusers 0.42 reads kohya's"
            " form with the component's most common alpha where layers are attention's or a text encoder's. The"
            " diffusers form has no such limit."
        )
    if dialect == "diffusers" and any(".attn" in name for name in alphas):
        found.append(
            "ComfyUI reads none of the UNet's attention layers in the diffusers form, and logs each key it leaves out;"
            " kohya's form it reads whole."
        )
    return found


def _alphas_are_lost(alphas: Mapping[str, float]) -> bool:
    """Whether a layer whose own alpha the converter loses has another than its component's most common one.

    It loses those of the UNet's attention and of all of a text encoder's layers.
    """
    by_component: dict[str, dict[str, float]] = {}
    for name, alpha in alphas.items():
        by_component.setdefault(name.partition(".")[0], {})[name] = alpha
    for component, named in by_component.items():
        (usual, times), *others = Counter(named.values()).most_common(2)
        tied = any(count == times for _, count in others)
        lost = [alpha for name, alpha in named.items() if component != UNET or ".attn" in name]
        if any(tied or alpha != usual for alpha in lost):
            return True
    return False
