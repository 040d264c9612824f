"""The UNet config of a single file, told from the names of its tensors: SDXL's own, or that of a distilled SDXL.

SSD-1B and its kin (Gupta et al. 2024, arXiv:2401.02677) are SDXL with fewer transformer layers in some blocks and no
attention in the middle. Knows nothing about loading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sdxl.family import unreadable
from sdxl.original import LAYERS_PER_BLOCK

_TRANSFORMER = re.compile(r"((?:input|output)_blocks\.\d+\.1|middle_block\.1)\.transformer_blocks\.(\d+)\.")
_BLOCK = re.compile(r"(input_blocks|output_blocks)\.(\d+)\.")
MIDDLE_WITHOUT_ATTENTION = "UNetMidBlock2D"


def told_from_names(sdxl: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """``sdxl``'s UNet config as the file's tensors want it.

    Args:
        sdxl: the config of the undistilled model.
        names: of the UNet's tensors in the original layout, without their prefix.

    Raises:
        PatinaError: BASE_UNREADABLE: the blocks are not SDXL's.
    """
    names = list(names)
    levels = len(sdxl["block_out_channels"])
    found: dict[str, set[int]] = {"input_blocks": set(), "output_blocks": set()}
    for name in names:
        if match := _BLOCK.match(name):
            found[match[1]].add(int(match[2]))
    wanted = set(range(levels * (LAYERS_PER_BLOCK + 1)))
    for kind, numbers in found.items():
        if numbers != wanted:
            raise unreadable(f"Its UNet has {len(numbers)} {kind}, SDXL has {len(wanted)}: it is another architecture.")
    depths = _depths(names)
    down = [[depths.get(f"input_blocks.{3 * level + 1 + layer}.1", 0) for layer in range(2)] for level in range(levels)]
    up = [[depths.get(f"output_blocks.{3 * level + layer}.1", 0) for layer in range(3)] for level in range(levels)]
    middle = depths.get("middle_block.1", 0)
    of_sdxl = _depths_of(sdxl)
    if [*map(set, down)] == [*map(set, reversed(up))] == [{depth} for depth in of_sdxl] and middle == of_sdxl[-1]:
        return dict(sdxl)
    for blocks, depth in zip((*down, *reversed(up)), (*of_sdxl, *of_sdxl), strict=True):
        if {*map(bool, blocks)} != {bool(depth)}:
            raise unreadable("Its UNet has attention where SDXL has none, or none where it has: another architecture.")
    if middle not in (0, down[-1][0]):
        raise unreadable(f"The middle of its UNet has {middle} transformer layers, which diffusers cannot build.")
    return {
        **sdxl,
        "transformer_layers_per_block": [level if any(level) else 1 for level in down],
        "reverse_transformer_layers_per_block": [level if any(level) else 1 for level in up],
        **({} if middle else {"mid_block_type": MIDDLE_WITHOUT_ATTENTION}),
    }


def _depths(names: Iterable[str]) -> dict[str, int]:
    """Transformer layers of each place that has any."""
    depths: dict[str, int] = {}
    for name in names:
        if match := _TRANSFORMER.match(name):
            depths[match[1]] = max(depths.get(match[1], 0), int(match[2]) + 1)
    return depths


def _depths_of(sdxl: Mapping[str, Any]) -> list[int]:
    """Transformer layers of each level, 0 without attention."""
    depths = sdxl["transformer_layers_per_block"]
    each = depths if isinstance(depths, list) else [depths] * len(sdxl["down_block_types"])
    return [depth if "CrossAttn" in kind else 0 for kind, depth in zip(sdxl["down_block_types"], each, strict=True)]
