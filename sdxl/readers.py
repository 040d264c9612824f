"""What other programs' loaders make of a correct LoRA file, found by reading and running them (docs/log.md).

Knows nothing about how files are written.
"""

from __future__ import annotations

from collections.abc import Mapping

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
    by_component = {(name.partition(".")[0], alpha) for name, alpha in alphas.items()}
    if dialect == "kohya" and len(by_component) > len({component for component, _ in by_component}):
        found.append(
            "Alpha differs inside a component: the file says so module by module, but diffusers 0.42 reads kohya's"
            " form with one alpha a component where layers are attention's. The diffusers form has no such limit."
        )
    if dialect == "diffusers" and any(".attn" in name for name in alphas):
        found.append(
            "ComfyUI reads none of the UNet's attention layers in the diffusers form, and logs each key it leaves out;"
            " kohya's form it reads whole."
        )
    return found
