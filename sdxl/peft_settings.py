"""The settings PEFT keeps beside a LoRA's tensors, whose keys carry no alpha: rank, alpha, their exceptions, DoRA.

diffusers has them in the header (``lora_adapter_metadata``), PEFT in ``adapter_config.json``. Both are
untrusted text when read: patterns are compared as plain names, never run as the expressions they may be.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from contracts.failures import PatinaError
from sdxl.adapter import AdapterModule, Modules, most_common_alpha
from sdxl.tensor_files import unreadable

UNSUPPORTED = ("modules_to_save", "layer_replication", "lora_bias", "fan_in_fan_out", "trainable_token_indices")
"""Settings that change what the tensors mean; set, they are refused."""
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+")


def settings_of(modules: Mapping[str, AdapterModule]) -> dict[str, Any]:
    """peft's settings for the modules of one component, by their names inside it.

    Names of text encoders lose their ``text_model.``, which the installed libraries have on one of them only:
    patterns are matched from the end.

    Raises:
        PatinaError: DoRA acts on some of them only, which peft cannot say.
    """
    dora = {module.magnitude is not None for module in modules.values()}
    if len(dora) > 1:
        raise unwritable("DoRA acts on some modules of a component and not on others; PEFT has it for all or none.")
    rank = Counter(module.rank for module in modules.values()).most_common(1)[0][0]
    alpha = most_common_alpha(modules)
    named = {name.removeprefix("text_model."): module for name, module in sorted(modules.items())}
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: module.rank for name, module in named.items() if module.rank != rank},
        "alpha_pattern": {name: module.alpha for name, module in named.items() if module.alpha != alpha},
        "target_modules": list(named),
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": dora == {True},
        "use_rslora": False,
    }


def alphas_by(settings: Mapping[str, Any], ranks: Mapping[str, int], default: float | None) -> dict[str, float]:
    """Each module's alpha as the settings mean it, rsLoRA's root of the rank (arXiv:2312.03732) multiplied in.

    Args:
        settings: of one component.
        ranks: by module name inside the component.
        default: alpha where the settings name none; None is the rank.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE, they cannot be read or ask for what is not supported.
    """
    for name in UNSUPPORTED:
        if settings.get(name):
            raise unreadable(f"It uses {name}, which is not supported.")
    if settings.get("bias", "none") not in ("none", None):
        raise unreadable("It trains biases, which is not supported.")
    try:
        usual = settings.get("lora_alpha", default)
        patterns = {str(pattern): float(alpha) for pattern, alpha in (settings.get("alpha_pattern") or {}).items()}
        found = {
            name: _matching(patterns, name, float(rank if usual is None else usual)) for name, rank in ranks.items()
        }
    except (ValueError, TypeError, AttributeError):
        raise unreadable("Its alpha settings cannot be read.") from None
    if settings.get("use_rslora"):
        found = {name: alpha * math.sqrt(ranks[name]) for name, alpha in found.items()}
    return found


def require_dora(settings: Mapping[str, Any], modules: Modules) -> None:
    """Make sure that there are magnitudes where the settings speak of DoRA: without them the update is another.

    Raises:
        PatinaError: WEIGHTS_UNREADABLE.
    """
    if settings.get("use_dora") and any(module.magnitude is None for module in modules.values()):
        raise unreadable("It says use_dora, but magnitudes (lora_magnitude_vector) are missing.")


def unwritable(reason: str) -> PatinaError:
    """What a dialect has no words for."""
    error = unreadable("")
    return PatinaError(error.code, f"The weights cannot be written so. {reason}", "Choose another dialect.")


def _matching(patterns: Mapping[str, float], name: str, usual: float) -> float:
    """As peft takes patterns: the first that is the name, or its end after a dot."""
    for pattern, alpha in patterns.items():
        if not _PLAIN.fullmatch(pattern):
            raise unreadable(f"Its alpha_pattern '{pattern[:80]}' is no plain module name.")
        if pattern.startswith("^"):
            if name == pattern[1:]:
                return alpha
        elif name == pattern or name.endswith(f".{pattern}"):
            return alpha
    return usual
