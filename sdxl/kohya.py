"""kohya's names of SDXL's layers: one word a module, from Stability's module names; and the tensors under them.

``lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q`` with ``.lora_down.weight``, ``.lora_up.weight``,
``.alpha`` and, as LyCORIS has it, ``.dora_scale``. ``lora_te1`` is CLIP-L, ``lora_te2`` OpenCLIP bigG. Knows
nothing about files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from sdxl.adapter import AdapterModule, Modules, from_state
from sdxl.original import unet_name
from sdxl.peft_settings import unwritable
from sdxl.tensor_files import unreadable
from sdxl.to_original import unet_name as original_unet_name

PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}

_STABILITY = (
    "input_blocks output_blocks middle_block transformer_blocks in_layers out_layers emb_layers skip_connection"
    " time_embed label_emb to_q to_k to_v to_out proj_in proj_out"
)
_DIFFUSERS = (
    "down_blocks up_blocks mid_block conv_in conv_out conv_shortcut time_emb_proj"
    " time_embedding add_embedding linear_1 linear_2"
)
_CLIP = "text_model self_attn q_proj k_proj v_proj out_proj text_projection"
_COMPOUND = f"{_STABILITY} {_DIFFUSERS} {_CLIP}".split()
"""Names with an underscore of their own, in Stability's UNet, diffusers' UNet and CLIP."""
_WORD = re.compile(rf"({'|'.join(sorted(_COMPOUND, key=len, reverse=True))}|[a-z]+\d*|\d+)(?:_|$)")
_DIFFUSERS_BLOCKS = ("down_blocks.", "up_blocks.", "mid_block.", "conv_", "time_embedding.", "add_embedding.")
_PARTS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
_OTHER_METHODS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "oft_": "OFT",
    "lora_mid": "a LoRA with a Tucker core",
    "glora": "GLoRA",
    "w_norm": "trained norms",
    "diff": "a full difference",
}


def to_kohya(modules: Mapping[str, AdapterModule]) -> dict[str, torch.Tensor]:
    """A LoRA under kohya's keys; alphas are fp32 scalars.

    Raises:
        PatinaError: a layer has no name there.
    """
    state = {}
    for name, module in modules.items():
        key = kohya_name(name)
        state[f"{key}.lora_down.weight"] = module.down
        state[f"{key}.lora_up.weight"] = module.up
        state[f"{key}.alpha"] = torch.tensor(module.alpha, dtype=torch.float32)
        if module.magnitude is not None:
            # One column: normalised over the outputs, each row having a magnitude, as PEFT does.
            state[f"{key}.dora_scale"] = module.magnitude.reshape(-1, *[1] * (module.down.ndim - 1))
    return state


def from_kohya(state: Mapping[str, torch.Tensor]) -> Modules:
    """A LoRA out of kohya's keys; the UNet's blocks may have Stability's names or diffusers'.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, it is not exactly that.
    """
    renamed: dict[str, torch.Tensor] = {}
    alphas: dict[str, float] = {}
    for key, tensor in state.items():
        word, _, part = key.partition(".")
        name = module_name(word)
        if part in _PARTS:
            if f"{name}.{_PARTS[part]}" in renamed:
                raise unreadable(f"{name} is in it twice, under two names.")
            renamed[f"{name}.{_PARTS[part]}"] = tensor
        elif part == "alpha" and tensor.numel() == 1:
            # Some files have 0 where they mean "as the rank".
            if (alpha := float(tensor)) != 0:
                alphas[name] = alpha
        elif part == "dora_scale":
            renamed[f"{name}.lora_magnitude_vector"] = _magnitude(name, tensor, state.get(f"{word}.lora_up.weight"))
        else:
            method = next((found for start, found in _OTHER_METHODS.items() if start in part), "no LoRA of kohya's")
            raise unreadable(f"'{key[:120]}' is of {method}, which is not supported.")
    if strangers := alphas.keys() - {key.rsplit(".lora_", 1)[0] for key in renamed}:
        raise unreadable(f"{min(strangers)} has an alpha and no weights.")
    return from_state(renamed, alphas)


def kohya_name(module: str) -> str:
    """kohya's word for a module.

    Raises:
        PatinaError: it has none.
    """
    component, _, name = module.partition(".")
    try:
        found = original_unet_name(name) if component == "unet" else name
    except ValueError as error:
        raise unwritable(f"kohya's form follows the original layout, and {error}.") from None
    return PREFIXES[component] + found.replace(".", "_")


def module_name(word: str) -> str:
    """The module a word of kohya's means.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, none of SDXL's.
    """
    component = next((part for part, prefix in PREFIXES.items() if word.startswith(prefix)), None)
    if component is None:
        raise unreadable(f"'{word[:120]}' is no layer of SDXL in kohya's words (lora_unet_, lora_te1_, lora_te2_).")
    rest = word.removeprefix(PREFIXES[component])
    parts = [match[1] for match in _WORD.finditer(rest)]
    name = ".".join(parts)
    if "_".join(parts) == rest:
        if component != "unet" or name.startswith(_DIFFUSERS_BLOCKS):
            return f"{component}.{name}"
        if found := _unet_name(name):
            return f"{component}.{found}"
    raise unreadable(f"'{word[:120]}' names no layer of SDXL.")


def _unet_name(name: str) -> str:
    try:
        return unet_name(f"{name}.weight").removesuffix(".weight")
    except ValueError:
        # A block without a number.
        return ""


def _magnitude(name: str, scale: torch.Tensor, up: torch.Tensor | None) -> torch.Tensor:
    if up is None or scale.ndim < 1 or scale.shape[0] != len(up) or scale.numel() != len(up):
        raise unreadable(
            f"{name} has a dora_scale of shape {tuple(scale.shape)}: normalised over inputs, as LyCORIS does unless"
            " wd_on_output is set, it has no counterpart here."
        )
    return scale
